"""What waypoints and gateways make of an object, as a condition. Pure.

Type and reasons are Istio's (``pilot/pkg/serviceregistry/ambient/policies.go``). An object without any effect says so:
its author believes that the rule is in force and has no other reason to look.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from controlplane.envoy.layer7 import Layer7
from controlplane.envoy.placing import Placed
from controlplane.graph.derived import Fetch
from controlplane.inputs import targets
from controlplane.routing import destinations, entries, virtual_services
from controlplane.status import conditions, envoy_filters, rejections, telemetry
from controlplane.status.conditions import NOT_BOUND, NOT_READY, WAYPOINT_ACCEPTED, Condition
from meshapi import names
from meshapi.errors import listed
from meshapi.resources import base
from meshapi.resources.core import Service
from meshapi.resources.destination_rule import DestinationRule, TLSMode
from meshapi.resources.envoy_filter import EnvoyFilter
from meshapi.resources.networking import ServiceEntry
from meshapi.resources.request_authentication import RequestAuthentication
from meshapi.resources.security import AuthorizationPolicy, PolicyTargetReference
from meshapi.resources.telemetry import Telemetry
from meshapi.resources.virtual_service import VirtualService
from meshkit.kube import Key

NO_TARGET: Final = "TargetNotFound"
Routed = VirtualService | DestinationRule
Targeted = AuthorizationPolicy | RequestAuthentication


class Layer7Conditions:
    """The conditions of objects for waypoints."""

    def __init__(self, layer7: Layer7) -> None:
        self._layer7 = layer7
        self._inputs = layer7.model.inputs

    def of_virtual_service(self, item: VirtualService, fetch: Fetch) -> Condition | None:
        """Return the condition of a VirtualService; ``None`` for one of gateways only, or one to delegate to."""
        gateways = item.spec.gateways
        if not item.spec.hosts or (gateways and virtual_services.MESH not in gateways):
            return None
        made = fetch.find(self._layer7.routing.virtual_services, item.key)
        problems = () if made is None else made.routing.problems
        at_gateways = self._layer7.model.gateways.istio.known
        found = self._layer7.envoy.of_source("VirtualService", item.key, fetch)
        placed = tuple(one for one in found if fetch.find(at_gateways, one.view) is None)
        return self._routed(item, placed, problems, fetch)

    def of_destination_rule(self, item: DestinationRule, fetch: Fetch) -> Condition | None:
        """Return the condition of a DestinationRule."""
        placed = self._layer7.envoy.of_source("DestinationRule", item.key, fetch)
        problems = (*destinations.problems(item), *self._missing_credentials(item, placed, fetch))
        return self._routed(item, placed, problems, fetch)

    def of_service_entry(self, item: ServiceEntry, fetch: Fetch) -> Condition | None:
        """Return the condition of a ServiceEntry; ``None`` where its waypoint does all that it says, or it has none."""
        problems = list(entries.problems(item))
        if not problems or self._layer7.model.waypoints.of_entry(item.key, fetch) is None:
            return None
        return _condition(False, conditions.UNSUPPORTED, listed(problems))

    def of_policy(self, kind: str, item: Targeted, fetch: Fetch) -> Condition | None:
        """Return the condition of a policy with targets; ``None`` for one without."""
        references = targets.references(item)
        if not references:
            return None
        placed = self._layer7.envoy.of_source(kind, item.key, fetch)
        if rejected := self._rejection(placed, fetch):
            return rejected
        if faults := self._faults(item, references, fetch):
            return faults
        unknown = [*_unknown(item), *self._missing_keys(item, fetch)]
        if unknown:
            return _condition(False, conditions.UNSUPPORTED, listed(unknown))
        return self._waiting(placed, fetch) or _condition(
            True, conditions.ACCEPTED, f"bound to {self._views(placed) or 'its waypoint, which serves nothing'}"
        )

    def of_telemetry(self, item: Telemetry, fetch: Fetch) -> Condition:
        """Return the condition of a Telemetry."""
        problems = telemetry.problems_of(self._layer7, item, fetch)
        placed, fault = self._placed("Telemetry", item, item.spec.targets, problems, fetch)
        if fault is not None:
            return fault
        if not placed:
            hint = f"label a service or a namespace {names.USE_WAYPOINT_LABEL}=NAME"
            return _condition(False, NOT_BOUND, f"no waypoint is there that it is for, so it has no effect; {hint}")
        return self._in_force(placed, fetch)

    def of_envoy_filter(self, item: EnvoyFilter, fetch: Fetch) -> Condition:
        """Return the condition of an EnvoyFilter."""
        if not item.spec.target_refs and not self._layer7.envoy.of_source("EnvoyFilter", item.key, fetch):
            fix = "name a Gateway, a Service or a ServiceEntry in spec.targetRefs"
            return _condition(False, NOT_BOUND, f"waypoints are not selected by labels or namespace; {fix}")
        problems = envoy_filters.problems_of(self._layer7, item, fetch)
        placed, fault = self._placed("EnvoyFilter", item, item.spec.target_refs, problems, fetch)
        if fault is not None:
            return fault
        if not placed:
            return _condition(True, conditions.ACCEPTED, "in force at no waypoint")
        return self._in_force(placed, fetch)

    def _placed(
        self,
        kind: str,
        item: base.Object,
        references: Iterable[PolicyTargetReference],
        problems: Iterable[str],
        fetch: Fetch,
    ) -> tuple[tuple[Placed, ...], Condition | None]:
        """Return the resources that an object has a part in, and its condition if something of it has no effect."""
        placed = self._layer7.envoy.of_source(kind, item.key, fetch)
        if fault := self._rejection(placed, fetch) or self._faults(item, references, fetch):
            return placed, fault
        found = [*problems, *_unknown(item)]
        if not found:
            return placed, None
        where = f"; the rest is in force at {self._views(placed)}" if placed else ""
        return placed, _condition(False, conditions.UNSUPPORTED, f"{listed(found)}{where}")

    def _in_force(self, placed: Iterable[Placed], fetch: Fetch) -> Condition:
        accepted = _condition(True, conditions.ACCEPTED, f"in force at {self._views(placed)}")
        return self._waiting(placed, fetch) or accepted

    def _views(self, placed: Iterable[Placed]) -> str:
        """Return the waypoints and gateways that resources are for, as messages have them."""
        gateways = self._layer7.model.gateways.known
        found = set()
        for view in {one.view for one in placed}:
            gateway = gateways.find(view)
            own = gateway is not None and gateway.merged
            name = gateway.workload if gateway is not None and own else view[1]
            found.add((view[0], name, "waypoint" if gateway is None else "gateway"))
        return listed([f"{kind} {namespace}/{name}" for namespace, name, kind in sorted(found)]) if found else ""

    def _waiting(self, placed: Iterable[Placed], fetch: Fetch) -> Condition | None:
        """Return the condition of an object for waypoints of which none has been ready yet; ``None``: one has."""
        ready, of_users = self._layer7.model.waypoints.ready, self._layer7.model.gateways.istio.known
        views = {one.view for one in placed}
        if not views or any(fetch.find(ready, one) is not None for one in views):
            return None
        if any(fetch.find(of_users, one) is not None for one in views):
            return None
        return _condition(False, NOT_READY, f"{self._views(placed)} is not ready, so it has no effect yet")

    def _faults(self, item: base.Object, references: Iterable[PolicyTargetReference], fetch: Fetch) -> Condition | None:
        faults = [fault for one in references if (fault := self._fault(item, one, fetch))]
        if not faults:
            return None
        reason = NO_TARGET if any(reason == NO_TARGET for reason, _ in faults) else NOT_BOUND
        return _condition(False, reason, listed([message for _, message in faults]))

    def _routed(self, item: Routed, placed: tuple[Placed, ...], problems: Sequence[str], fetch: Fetch) -> Condition:
        if rejected := self._rejection(placed, fetch):
            return rejected
        found = [*problems, *_unknown(item)]
        if found:
            return _condition(False, conditions.UNSUPPORTED, listed(found))
        if not placed:
            hint = f"label the service or its namespace {names.USE_WAYPOINT_LABEL}=NAME"
            where = "uses a waypoint in a namespace of exportTo" if item.spec.export_to else "uses a waypoint"
            return _condition(
                False, NOT_BOUND, f"no service with one of its hosts {where}, so it has no effect; {hint}"
            )
        return self._in_force(placed, fetch)

    def _missing_credentials(self, item: DestinationRule, placed: Iterable[Placed], fetch: Fetch) -> Iterable[str]:
        """Say which Secrets cannot be used, and where that matters."""
        views = sorted({one.view for one in placed})
        for path, tls in destinations.credentials(item):
            for view in views:
                found = fetch.find(self._inputs.secrets, (view[0], tls.credential_name))
                fault = "" if found is None or tls.insecure_skip_verify else found.roots_fault
                if found is not None and tls.mode is TLSMode.MUTUAL:
                    fault = found.fault or fault
                if fault:
                    yield f"{path}: Secret {view[0]}/{tls.credential_name} {fault}, so connections of {view[1]} fail"

    def _missing_keys(self, item: Targeted, fetch: Fetch) -> Iterable[str]:
        """Say which issuers' keys cannot be fetched, and what that means."""
        rules = item.spec.jwt_rules if isinstance(item, RequestAuthentication) else ()
        for index, rule in enumerate(rules):
            found = fetch.find(self._inputs.key_sets, (rule.jwks_uri, rule.issuer))
            if not rule.jwks and found is not None and found.fault:
                effect = "the last good keys stay in use" if found.keys else "tokens of this issuer are refused"
                yield f"spec.jwtRules[{index}]: {found.fault}; {effect}"

    def _rejection(self, placed: Iterable[Placed], fetch: Fetch) -> Condition | None:
        found = rejections.first(self._inputs, placed, fetch)
        if found is None:
            return None
        rejected = conditions.of_rejected(found)
        return _condition(False, rejected.reason, rejected.message)

    def _fault(self, item: base.Object, one: PolicyTargetReference, fetch: Fetch) -> tuple[str, str] | None:
        """Return the reason and what is wrong with a reference of an object; ``None``: nothing."""
        namespace = item.metadata.namespace
        key = (namespace, one.name)
        shown = f"{one.kind} {'/'.join(key)}"
        if one.namespace not in {"", namespace}:
            return NO_TARGET, f"{one.kind} {one.namespace}/{one.name} is in another namespace than the policy"
        if one.kind in {"Service", "ServiceEntry"}:
            return self._fault_of_service(item, one, fetch)
        if one.kind == "Gateway":
            is_ready = fetch.find(self._layer7.model.waypoints.ready, key) is not None
            return None if is_ready else (NO_TARGET, f"{shown} is no waypoint or gateway that is ready")
        if one.kind == "GatewayClass" and one.name == names.WAYPOINT_CLASS:
            root = fetch.setting(self._inputs.mesh).root_namespace
            return None if namespace == root else (NO_TARGET, f"a policy for the class has to be in namespace {root}")
        return NO_TARGET, f"{one.kind} is no kind of targets; name a Service, a ServiceEntry or a Gateway"

    def _fault_of_service(self, item: base.Object, one: PolicyTargetReference, fetch: Fetch) -> tuple[str, str] | None:
        key, is_service = (item.metadata.namespace, one.name), one.kind == "Service"
        shown = f"{one.kind} {'/'.join(key)}"
        if fetch.find(self._inputs.of(Service if is_service else ServiceEntry), key) is None:
            return NO_TARGET, f"{shown} does not exist"
        waypoints = self._layer7.model.waypoints
        if (waypoints.of_service(key, fetch) if is_service else waypoints.of_entry(key, fetch)) is not None:
            return None
        instead = self._at_layer_4(item, key, fetch) if is_service else ""
        return NOT_BOUND, f"{shown} uses no waypoint, {instead or 'so this has no effect there'}"

    def _at_layer_4(self, item: base.Object, service: Key, fetch: Fetch) -> str:
        """Return what layer 4 makes of a policy for a service without a waypoint; empty: nothing."""
        unbound = fetch.find(self._layer7.model.unbound, service)
        if not isinstance(item, AuthorizationPolicy) or unbound is None or item.key not in unbound.policies:
            return ""
        lost = unbound.problems[item.key]
        return f"so layer 4 enforces this at its pods{': ' + listed(lost) if lost else ''}"


def _condition(accepted: bool, reason: str, message: str) -> Condition:
    return Condition(accepted, reason, message, WAYPOINT_ACCEPTED)


def _unknown(item: base.Object) -> list[str]:
    return [f"{path} is not known and ignored" for path in base.unknown_fields(item)]
