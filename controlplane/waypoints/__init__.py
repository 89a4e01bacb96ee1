"""Which waypoints there are, and which services and workloads are attached to them. Pure.

Facts: Istio's ``ambient/waypoints.go``. Any Gateway with an address can be a waypoint, also one
whose GatewayClass names another controller.
"""
