"""The control plane: watches Kubernetes, configures proxies, and signs workload certificates."""
