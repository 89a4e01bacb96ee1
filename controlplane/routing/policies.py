"""Policies for services and waypoints, found by what their ``targetRefs`` name.

Rules, as Istio's (``pilot/pkg/model/policyattachment.go``): a policy is of the same namespace as its target; one for
the class of waypoints is of the root namespace; one without a target is not for waypoints.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from controlplane.graph.derived import Fetch
from controlplane.graph.lookups import Index
from controlplane.inputs.sources import MESH, Inputs
from controlplane.routing.services import Service
from meshapi import names
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.gateway import GROUP
from meshapi.resources.request_authentication import JWTRule, RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy, PolicyTargetReference
from meshapi.resources.telemetry import Telemetry
from meshkit.kube import Key

TargetedT = TypeVar("TargetedT", AuthorizationPolicy, RequestAuthentication)
Targeted = AuthorizationPolicy | RequestAuthentication | Telemetry | EnvoyFilter
Target = tuple[str, str, str, str]
"""Group, kind, namespace, name."""


class Policies:
    """The policies of one mesh that name targets."""

    def __init__(self, inputs: Inputs) -> None:
        self._mesh = inputs.mesh
        self._config = inputs.config
        self._key_sets = inputs.key_sets
        self._authorization: Index[Target, Key, AuthorizationPolicy] = Index(inputs.of(AuthorizationPolicy), targets)
        self._authentication: Index[Target, Key, RequestAuthentication] = Index(
            inputs.of(RequestAuthentication), targets
        )

    def authorization(self, service: Service | None, view: Key, fetch: Fetch) -> tuple[AuthorizationPolicy, ...]:
        """Return the AuthorizationPolicies for a service at a waypoint; for its workloads without a service."""
        return self._found(self._authorization, service, view, fetch)

    def authentication(self, service: Service | None, view: Key, fetch: Fetch) -> tuple[RequestAuthentication, ...]:
        """Return the RequestAuthentications for a service at a waypoint; for its workloads without a service."""
        return self._found(self._authentication, service, view, fetch)

    def keys(self, rule: JWTRule, fetch: Fetch) -> str | None:
        """Return the keys of a token issuer, as JSON; ``None``: there are none yet."""
        if rule.jwks:
            return rule.jwks
        found = fetch.find(self._key_sets, (rule.jwks_uri, rule.issuer))
        return None if found is None else found.keys

    def providers(self, fetch: Fetch) -> Mapping[str, ExtensionProvider]:
        """Return the extension providers of the mesh configuration by name."""
        config = fetch.find(self._config, MESH)
        return {} if config is None else {one.name: one for one in config.extension_providers}

    def _found(
        self, index: Index[Target, Key, TargetedT], service: Service | None, view: Key, fetch: Fetch
    ) -> tuple[TargetedT, ...]:
        found = {
            policy.key: policy
            for target in targets_of(service, view, fetch.setting(self._mesh).root_namespace)
            for policy in fetch.members(index, target)
        }
        return tuple(found[key] for key in sorted(found))


def targets_of(service: Service | None, view: Key, root: str) -> Iterable[Target]:
    """Yield the targets that count for a service at a waypoint, or (``None``) for the waypoint itself.

    Args:
        service: the service.
        view: key of the waypoint's Gateway.
        root: the root namespace.
    """
    if service is not None:
        group = "" if service.kind == "Service" else "networking.istio.io"
        yield (group, service.kind, *service.key)
    yield (GROUP, "Gateway", *view)
    yield (GROUP, "GatewayClass", root, names.WAYPOINT_CLASS)


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
