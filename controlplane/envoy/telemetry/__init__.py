"""Access logs, metrics and traces of waypoints as Envoy's messages."""
