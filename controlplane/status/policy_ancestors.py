"""``status.ancestors`` of policies for backends. Source: Gateway API v1, ``PolicyAncestorStatus``.

An ancestor is the waypoint of a target, and each gateway with a route to it; or the target itself while it has neither.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from controlplane.envoy.layer7 import Layer7
from controlplane.graph.collection import Collection
from controlplane.graph.derived import Derived, Fetch
from controlplane.inputs.verdicts import Verdict
from controlplane.routing import backend_policies
from controlplane.routing.backend_policies import BackendPolicies, PolicyReading
from controlplane.stages import CONDITIONS
from controlplane.status import conditions, rejections
from controlplane.status.shared_lists import SharedList, condition
from meshapi import names
from meshapi.resources import base
from meshapi.resources.backend_policies import BackendTLSPolicy, PolicyTarget, XBackendTrafficPolicy
from meshapi.resources.gateway import GROUP
from meshkit.kube import Json, Key, Kind, kinds

_MAX: Final = 16
"""The API's limit of ancestors in one status; further ones are left out."""


class PolicyAncestors:
    """The entries that policies shall have.

    Attributes:
        lists: the entries of each policy, without times.
    """

    def __init__(self, layer7: Layer7) -> None:
        self._layer7 = layer7
        routing = layer7.routing
        self.lists = (
            self._list(kinds.BACKEND_TLS_POLICY, BackendTLSPolicy, routing.backend_tls),
            self._list(kinds.BACKEND_TRAFFIC_POLICY, XBackendTrafficPolicy, routing.backend_traffic),
        )

    def _list(self, kind: Kind, model: type[base.Object], policies: BackendPolicies[Any]) -> SharedList:
        entries: Collection[Key, tuple[Json, ...]] = Derived(
            self._layer7.model.graph,
            f"ancestors of {kind.plural}",
            self._layer7.model.inputs.of(model),
            CONDITIONS,
            functools.partial(self._ancestors, kind.name, policies),
        )
        return SharedList(kind, entries, "ancestors", "ancestorRef")

    def _ancestors(
        self, kind: str, policies: BackendPolicies[Any], item: base.Object, fetch: Fetch
    ) -> tuple[Json, ...] | None:
        reading: PolicyReading | None = fetch.find(policies.readings, item.key)
        if reading is None:
            return None
        found: dict[tuple[tuple[str, str], ...], list[Verdict]] = {}
        for reference, verdict in self._verdicts(kind, policies, reading, fetch):
            found.setdefault(tuple(sorted(reference.items())), []).append(verdict)
        generation = item.metadata.generation
        rejected = self._rejected(kind, item.key, fetch)
        return tuple(
            {
                "ancestorRef": dict(reference),
                "controllerName": self._controller(dict(reference)),
                "conditions": [
                    condition("Accepted", rejected or _worst(verdicts), generation),
                    *([] if reading.resolved is None else [condition("ResolvedRefs", reading.resolved, generation)]),
                ],
            }
            for reference, verdicts in list(found.items())[:_MAX]
        )

    def _controller(self, ancestor: Mapping[str, str]) -> str:
        """Return who is responsible for an ancestor."""
        key = (ancestor["namespace"], ancestor["name"])
        is_edge = ancestor["kind"] == "Gateway" and self._layer7.model.gateways.of_gateway_api.find(key) is not None
        return names.GATEWAY_CONTROLLER if is_edge else names.WAYPOINT_CONTROLLER

    def _gateways(self, kind: str, keys: Iterable[Key], fetch: Fetch) -> list[Key]:
        """Return the gateways that policies have a part in."""
        found = {one.view for key in keys for one in self._layer7.envoy.of_source(kind, key, fetch)}
        known = self._layer7.model.gateways.known
        return sorted(view for view in found if fetch.find(known, view) is not None)

    def _rejected(self, kind: str, key: Key, fetch: Fetch) -> Verdict | None:
        placed = self._layer7.envoy.of_source(kind, key, fetch)
        rejection = rejections.first(self._layer7.model.inputs, placed, fetch)
        if rejection is None:
            return None
        found = conditions.of_rejected(rejection)
        return Verdict(False, "Invalid", found.message)

    def _verdicts(
        self, kind: str, policies: BackendPolicies[Any], reading: PolicyReading, fetch: Fetch
    ) -> Iterator[tuple[dict[str, str], Verdict]]:
        """Yield an ancestor for each target, and whether the policy counts there."""
        waypoints = self._layer7.model.waypoints
        for target in reading.targets:
            key = (reading.key[0], target.name)
            own = {"group": target.group, "kind": target.kind, "namespace": key[0], "name": target.name}
            if backend_policies.TARGET_GROUPS.get(target.kind) != target.group:
                yield own, Verdict(False, "Invalid", f"{target.group}/{target.kind} is no kind of targets here")
                continue
            of_target = waypoints.of_entry if target.kind == "ServiceEntry" else waypoints.of_service
            waypoint = of_target(key, fetch)
            verdict = self._verdict(policies, reading, target, fetch)
            rival = policies.rival(reading, target, fetch)
            gateways = self._gateways(kind, {reading.key, rival or reading.key}, fetch)
            known = self._layer7.model.gateways.of_gateway_api
            named = [view for view in gateways if fetch.find(known, view) is not None]
            if waypoint is None and gateways and not named:
                yield own, verdict  # pods of Gateways of Istio's API, which are no ancestors
            if waypoint is None and not gateways:
                hint = "the target uses no waypoint; the policy counts where routes of other waypoints lead to it"
                yield own, Verdict(verdict.is_true, verdict.reason, f"{verdict.message}; {hint}")
            for namespace, name in (*named, *([] if waypoint is None else [waypoint.key])):
                yield {"group": GROUP, "kind": "Gateway", "namespace": namespace, "name": name}, verdict

    def _verdict(
        self, policies: BackendPolicies[Any], reading: PolicyReading, target: PolicyTarget, fetch: Fetch
    ) -> Verdict:
        routing = self._layer7.routing
        service = routing.of_object(target.kind, (reading.key[0], target.name), fetch)
        shown = f"{target.kind} {reading.key[0]}/{target.name}"
        if service is None:
            return Verdict(False, "TargetNotFound", f"{shown} does not exist")
        if target.section_name and all(port.name != target.section_name for port in service.ports):
            return Verdict(False, "TargetNotFound", f"{shown} has no port {target.section_name}")
        rival = policies.rival(reading, target, fetch)
        if rival is not None:
            return Verdict(False, "Conflicted", f"{'/'.join(rival)} is older and counts for {shown} instead")
        return reading.accepted


def _worst(verdicts: list[Verdict]) -> Verdict:
    return next((one for one in verdicts if not one.is_true), verdicts[0])
