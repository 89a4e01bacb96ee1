"""The node agent's side of ZDS: sends ztunnel the network namespaces to serve."""
