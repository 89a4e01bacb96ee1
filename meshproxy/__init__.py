"""What every proxy process needs besides its protocol: the engine's events, certificates, metrics, a supervised life.

Knows no protocol, no kind of resource and no Kubernetes; a process (ztunnel, a waypoint) brings these.
"""
