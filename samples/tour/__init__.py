"""The main job, shown: a lab, Culvert, bookinfo, a label, and who called whom over what, before and after."""
