"""Policies for services and waypoints, found by what their ``targetRefs`` name.

Rules, as Istio's (``pilot/pkg/model/policyattachment.go``): a policy is of the same namespace as its target; one for
the class of waypoints is of the root namespace; one without a target is not for waypoints. At gateways it counts where
its selector, if it has one, selects the gateway's pods.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from controlplane.gateways.collections import Gateways
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Fetch
from controlplane.graph.lookups import Index, SelectorIndex
from controlplane.inputs.sources import MESH, Inputs
from controlplane.inputs.targets import Target, references, targets
from controlplane.routing.services import Service
from meshapi import names
from meshapi.mesh_config.providers import ExtensionProvider
from meshapi.resources.gateway import GROUP
from meshapi.resources.request_authentication import JWTRule, RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy
from meshkit.kube import Key

TargetedT = TypeVar("TargetedT", AuthorizationPolicy, RequestAuthentication)


class Policies:
    """The policies of one mesh for waypoints and gateways."""

    def __init__(self, inputs: Inputs, gateways: Gateways) -> None:
        self._gateways = gateways
        self._mesh = inputs.mesh
        self._config = inputs.config
        self._key_sets = inputs.key_sets
        self._authorization: _Attached[AuthorizationPolicy] = _Attached(inputs.of(AuthorizationPolicy))
        self._authentication: _Attached[RequestAuthentication] = _Attached(inputs.of(RequestAuthentication))

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
        self, attached: "_Attached[TargetedT]", service: Service | None, view: Key, fetch: Fetch
    ) -> tuple[TargetedT, ...]:
        gateway, root = fetch.find(self._gateways.known, view), fetch.setting(self._mesh).root_namespace
        found = {
            policy.key: policy
            for target in targets_of(service, view, root, is_waypoint=gateway is None)
            for policy in fetch.members(attached.by_target, target)
        }
        for namespace in {root, view[0]} if gateway is not None else ():
            found |= {one.key: one for one in fetch.members(attached.general, namespace)}
            selecting = fetch.matching(attached.selecting, namespace, gateway.labels if gateway else frozenset())
            found |= {one.key: one for one in selecting}
        return tuple(found[key] for key in sorted(found))


class _Attached(Generic[TargetedT]):
    """The policies of one kind.

    Attributes:
        by_target: those that name targets.
        general: those that are for a whole namespace, by namespace.
        selecting: those that select workloads.
    """

    def __init__(self, objects: Collection[Key, TargetedT]) -> None:
        self.by_target: Index[Target, Key, TargetedT] = Index(objects, targets)
        self.general: Index[str, Key, TargetedT] = Index(
            objects, lambda one: (one.metadata.namespace,) if _selector(one) == ("", {}) else ()
        )
        self.selecting: SelectorIndex[Key, TargetedT] = SelectorIndex(
            objects, lambda one: None if not (found := _selector(one)) else (one.metadata.namespace, found[1])
        )


def _selector(policy: AuthorizationPolicy | RequestAuthentication) -> tuple[str, Mapping[str, str]] | None:
    """Return what a policy selects, without labels: everything; ``None``: nothing, since it names targets."""
    if references(policy):
        return None
    return "", policy.spec.selector.match_labels if policy.spec.selector is not None else {}


def targets_of(service: Service | None, view: Key, root: str, *, is_waypoint: bool = True) -> Iterable[Target]:
    """Yield the targets that count for a service at a waypoint, or (``None``) for the waypoint itself.

    Args:
        service: the service.
        view: key of the waypoint's Gateway.
        root: the root namespace.
        is_waypoint: whether it is a waypoint; else a gateway, of which there is no service.
    """
    if service is not None:
        group = "" if service.kind == "Service" else "networking.istio.io"
        yield (group, service.kind, *service.key)
    yield (GROUP, "Gateway", *view)
    if is_waypoint:
        yield (GROUP, "GatewayClass", root, names.WAYPOINT_CLASS)
