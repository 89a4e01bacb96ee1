"""From Kubernetes and Istio objects to what proxies are told. Pure: same input, same output; no client, no clock."""
