"""The CNI plugin's counterpart: its place in the node's configuration (``chain``, ``install``), and its requests."""
