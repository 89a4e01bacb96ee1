"""Policies for services that use no waypoint: until they do, layer 4 enforces them at the services' pods.

In Istio such a policy has no effect. Here it fails closed, as rules of layer 7 do in policies that select pods: what
layer 4 cannot decide makes an ALLOW rule allow nothing, and a DENY rule deny more. Ports and destination addresses
count as such, because they are the service's, and layer 4 sees the pod's. A service whose automatic waypoint is on its
way is left alone: it would be cut off for the seconds in which its waypoint starts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from controlplane.ambient import authorization, resources
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Fetch
from controlplane.graph.lookups import Group
from controlplane.inputs.sources import Inputs
from controlplane.inputs.targets import targets
from controlplane.waypoints.collections import Waypoints
from meshapi.resources.core import Service
from meshapi.resources.security import AuthorizationPolicy
from meshkit.kube import Key, kinds
from meshkit.xds.source import Resource

_BY_ADDRESS: Final = "ExternalName"


@dataclass(frozen=True, slots=True)
class Unbound:
    """What layer 4 enforces for a service.

    Attributes:
        namespace: the service's.
        selector: of its pods.
        policies: as proxies get them, by the key of the AuthorizationPolicy.
        problems: what was left out of each.
    """

    namespace: str
    selector: Mapping[str, str]
    policies: Mapping[Key, Resource]
    problems: Mapping[Key, tuple[str, ...]]


def services(policy: AuthorizationPolicy) -> Iterable[Key]:
    """Return the keys of the services that a policy names."""
    return {(namespace, name) for group, kind, namespace, name in targets(policy) if (group, kind) == ("", "Service")}


class Making:
    """The transform, and what it reads."""

    def __init__(self, inputs: Inputs, waypoints: Waypoints) -> None:
        self._mesh = inputs.mesh
        self._services: Collection[Key, Service] = inputs.of(Service)
        self._waypoints = waypoints

    def of_service(self, group: Group[Key, Key, AuthorizationPolicy], fetch: Fetch) -> Unbound | None:
        """Return what layer 4 enforces of the policies for a service; ``None``: it has, or gets, a waypoint."""
        service = fetch.find(self._services, group.key)
        if service is None or not service.spec.selector or service.spec.type == _BY_ADDRESS:
            return None
        if self._waypoints.of_service(group.key, fetch) or self._waypoints.needs.of(kinds.SERVICE, group.key, fetch):
            return None
        mesh = fetch.setting(self._mesh)
        policies, problems = {}, {}
        for key, policy in sorted(group.members.items()):
            made = authorization.translate_for(service.metadata.name, policy, mesh)
            if made.policy is not None:
                policies[key], problems[key] = resources.of_policy(made.policy), tuple(made.problems)
        return Unbound(service.metadata.namespace, service.spec.selector, policies, problems) if policies else None
