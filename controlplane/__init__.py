"""The control plane: watches Kubernetes, tells proxies what they must know, and signs workload certificates."""
