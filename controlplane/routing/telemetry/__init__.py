"""What Telemetries say of a service at a waypoint. Facts: Istio's ``pilot/pkg/model/telemetry.go``."""
