"""What applies to a service or a pod, in the order in which it counts: as the proxies have it, not as it was asked."""
