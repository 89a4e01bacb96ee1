"""Components of Kubernetes: for each, its files and its command line, computed from the plan. Pure."""
