"""Enrols and unenrols the pods of this node: the order of the steps, and the state of each pod."""
