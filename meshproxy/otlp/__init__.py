"""Export of the access log as OpenTelemetry logs over gRPC: records come serialized from the engine, and go as such."""
