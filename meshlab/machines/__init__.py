"""Places to run: what the cluster asks of a machine, and machines made of namespaces."""
