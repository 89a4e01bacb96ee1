"""The node agent's side of ZDS: telling ztunnel which network namespaces to serve."""
