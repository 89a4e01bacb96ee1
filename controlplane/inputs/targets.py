"""What the ``targetRefs`` of policies name. Pure."""

from collections.abc import Iterable

from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.request_authentication import RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy, PolicyTargetReference
from meshapi.resources.telemetry import Telemetry

Targeted = AuthorizationPolicy | RequestAuthentication | Telemetry | EnvoyFilter
Target = tuple[str, str, str, str]
"""Group, kind, namespace, name."""


def targets(policy: Targeted) -> Iterable[Target]:
    """Yield what a policy names; a target in another namespace is none."""
    namespace = policy.metadata.namespace
    for one in references(policy):
        if one.namespace in {"", namespace}:
            yield ("" if one.group == "core" else one.group, one.kind, namespace, one.name)


def references(policy: Targeted) -> tuple[PolicyTargetReference, ...]:
    """Return the references of a policy; the older, single field counts without the newer one only."""
    if isinstance(policy, EnvoyFilter):
        return policy.spec.target_refs
    single = policy.spec.target_ref
    return policy.spec.target_refs or (() if single is None else (single,))
