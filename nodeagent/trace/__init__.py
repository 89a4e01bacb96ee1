"""``culvert trace``: connections of a node as they happen, from the kernel (bcc) and from ztunnel's access log."""
