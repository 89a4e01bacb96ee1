"""The node agent's side of ZDS: tells ztunnel which network namespaces to serve."""
