"""Places to run: the interface of a machine, machines made of namespaces, and hosts that exist already."""
