"""From Kubernetes and Istio objects to the resources of proxies. Pure: same input, same output; no client, no clock."""
