"""Places to run: the interface of a machine, and machines made of namespaces."""
