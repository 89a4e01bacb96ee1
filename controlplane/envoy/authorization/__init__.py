"""AuthorizationPolicies as Envoy's filters. Facts: Istio's ``pilot/pkg/security/authz``."""
