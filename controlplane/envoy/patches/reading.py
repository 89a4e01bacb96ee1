"""From an EnvoyFilter to patches. Pure.

What cannot be applied to a waypoint at all is left out and said: everything else of the object counts.
"""

import re
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from controlplane.envoy.patches import values
from controlplane.envoy.patches.patch import Match, Patch
from controlplane.inputs.targets import Target, targets
from meshapi.errors import DataError
from meshapi.resources.envoy_filter import (
    ApplyTo,
    ConfigPatch,
    EnvoyFilter,
    FilterMatch,
    ListenerMatch,
    ObjectMatch,
    Operation,
    PatchContext,
    RouteAction,
    RouteConfigurationMatch,
)
from meshkit.kube import Key

_REFERENCED: Final = "envoyfilter.istio.io/referenced-services"
_OF_WAYPOINT: Final = frozenset({PatchContext.ANY, PatchContext.WAYPOINT, PatchContext.SIDECAR_INBOUND})
"""Waypoints are patched in the context of inbound traffic, as in Istio."""
_INSERTS: Final = frozenset({Operation.INSERT_BEFORE, Operation.INSERT_AFTER, Operation.INSERT_FIRST})
_MERGES: Final = frozenset({Operation.MERGE, Operation.MERGE_AND_REPLACE_LIST})
_OF_FILTERS: Final = _INSERTS | _MERGES | {Operation.ADD, Operation.REMOVE, Operation.REPLACE}
_PLAIN: Final = _MERGES | {Operation.ADD, Operation.REMOVE}
_OPERATIONS: Final = {
    ApplyTo.LISTENER: _PLAIN,
    ApplyTo.LISTENER_FILTER: _OF_FILTERS,
    ApplyTo.FILTER_CHAIN: _PLAIN,
    ApplyTo.NETWORK_FILTER: _OF_FILTERS,
    ApplyTo.HTTP_FILTER: _OF_FILTERS,
    ApplyTo.ROUTE_CONFIGURATION: _MERGES,
    ApplyTo.VIRTUAL_HOST: _PLAIN | {Operation.REPLACE},
    ApplyTo.HTTP_ROUTE: _INSERTS | _PLAIN,
    ApplyTo.CLUSTER: _PLAIN,
    ApplyTo.EXTENSION_CONFIG: frozenset({Operation.ADD}),
}
_INSERTED: Final = frozenset({ApplyTo.HTTP_FILTER, ApplyTo.NETWORK_FILTER, ApplyTo.LISTENER_FILTER, ApplyTo.HTTP_ROUTE})
"""What has an order; elsewhere an insertion is an addition."""
_OF_ALL: Final = frozenset({ApplyTo.LISTENER, ApplyTo.LISTENER_FILTER})
"""What a waypoint has one of for all its services."""
_WHOLE: Final = frozenset({"Gateway", "GatewayClass"})
"""Kinds of targets that are a whole waypoint, or all of them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an EnvoyFilter says.

    Attributes:
        key: of the EnvoyFilter.
        order: sorts EnvoyFilters in the order in which they count, those of the root namespace apart.
        targets: the objects that the EnvoyFilter names.
        patches: in the object's order.
        problems: what cannot be applied, and the fix.
        selector: labels of the pods that it is for, none: all; ``None``: it names objects instead.
    """

    key: Key
    order: tuple[int, str, str]
    targets: tuple[Target, ...] = ()
    patches: tuple[Patch, ...] = ()
    problems: tuple[str, ...] = ()
    selector: frozenset[tuple[str, str]] | None = None


def read(item: EnvoyFilter, version: str, *, is_edge: bool = False) -> Reading:
    """Return what an EnvoyFilter says to waypoints and gateways.

    Args:
        item: the EnvoyFilter.
        version: of their proxies, as they report it.
        is_edge: whether it names a gateway at the edge.
    """
    found: list[Patch] = []
    problems: list[str] = []
    named, chosen = item.spec.target_refs, item.spec.workload_selector
    whole = not named or any(one.kind in _WHOLE for one in named)
    selector = None if named else frozenset({} if chosen is None else chosen.labels.items())
    for index, one in enumerate(item.spec.config_patches):
        path = f"spec.configPatches[{index}]"
        try:
            found.append(_patch(item.key, index, one, version=version, whole=whole, is_edge=is_edge))
        except DataError as error:
            problems.append(f"{path}{error}")
    if item.metadata.annotations.get(_REFERENCED):
        problems.append(f"annotation {_REFERENCED} has no effect: clusters are made for targets of routes")
    order = (item.spec.priority, item.metadata.creation_timestamp, ".".join(reversed(item.key)))
    return Reading(item.key, order, tuple(targets(item)), tuple(found), tuple(problems), selector)


def _patch(key: Key, index: int, given: ConfigPatch, *, version: str, whole: bool, is_edge: bool) -> Patch:
    """Return a patch. Raises ``DataError`` for one that no waypoint can apply; its text begins with the field."""
    match = given.match or ObjectMatch()
    change = given.patch
    if change is None:
        raise DataError(".patch is missing; say how it is patched")
    apply_to, operation = given.apply_to, change.operation
    if apply_to is ApplyTo.BOOTSTRAP:
        raise DataError(
            ".applyTo BOOTSTRAP: a waypoint starts with it before it is configured, so it cannot be patched; "
            "use spec.infrastructure.parametersRef of the Gateway"
        )
    if operation in _INSERTS and apply_to not in _INSERTED:
        operation = Operation.ADD
    if operation not in _OPERATIONS[apply_to]:
        allowed = ", ".join(sorted(_OPERATIONS[apply_to]))
        raise DataError(f".patch.operation {operation} has no meaning for {apply_to}; write one of {allowed}")
    is_of_all = apply_to in _OF_ALL or (apply_to is ApplyTo.FILTER_CHAIN and operation is Operation.ADD)
    if is_of_all and not whole:
        raise DataError(f".applyTo {apply_to}: services share the waypoint's listeners; name the Gateway in targetRefs")
    _check_proxy(match, version)
    if not (is_edge and match.context is PatchContext.GATEWAY):
        _check_context(apply_to, operation, match.context)
    read = _match(match)
    _check_selection(apply_to, operation, read)
    return Patch(key, index, apply_to, operation, read, _value(given), change.filter_class)


def _value(given: ConfigPatch) -> Message | None:
    value = given.patch.value if given.patch is not None else None
    if value is None:
        return None
    try:
        return values.message(given.apply_to, value)
    except DataError as error:
        raise DataError(f".patch.value: {error}") from None


def _check_proxy(match: ObjectMatch, version: str) -> None:
    if match.proxy is None:
        return
    if match.proxy.metadata:
        raise DataError(
            ".match.proxy.metadata: all pods of a waypoint get one configuration; name its Gateway in targetRefs"
        )
    pattern = match.proxy.proxy_version
    if pattern and not re.search(pattern, version):
        raise DataError(f".match.proxy.proxyVersion {pattern} does not match {version}, the version of waypoints")


def _check_context(apply_to: ApplyTo, operation: Operation, context: PatchContext) -> None:
    is_outbound = apply_to is ApplyTo.CLUSTER and operation is not Operation.ADD
    if context in _OF_WAYPOINT or (is_outbound and context is PatchContext.SIDECAR_OUTBOUND):
        return
    raise DataError(f".match.context {context}: a waypoint has no {apply_to} of it; write WAYPOINT or SIDECAR_INBOUND")


def _check_selection(apply_to: ApplyTo, operation: Operation, match: Match) -> None:
    """Refuse to replace or remove one of several without saying which (Istio leaves such a patch out)."""
    if operation not in {Operation.REMOVE, Operation.REPLACE}:
        return
    missing = {
        ApplyTo.HTTP_FILTER: "" if match.sub_filter else "filterChain.filter.subFilter",
        ApplyTo.NETWORK_FILTER: "" if match.filter else "filterChain.filter",
        ApplyTo.LISTENER_FILTER: "" if match.listener_filter else "listenerFilter",
    }.get(apply_to)
    if missing:
        raise DataError(f".match.listener.{missing} is missing; {operation} needs the name of a filter")


def _match(given: ObjectMatch) -> Match:
    if given.listener is not None:
        return _of_listener(given.context, given.listener)
    if given.route_configuration is not None:
        return _of_routes(given.context, given.route_configuration)
    if given.cluster is not None:
        one = given.cluster
        return Match(given.context, one.port_number, cluster=one.name, service=one.service, subset=one.subset)
    if given.waypoint is not None:
        one_filter, route = given.waypoint.filter, given.waypoint.route
        return Match(
            given.context,
            given.waypoint.port_number,
            filter=one_filter.name if one_filter else "",
            sub_filter=_sub_filter(one_filter),
            has_route=route is not None,
            route=route.name if route else "",
        )
    return Match(given.context)


def _of_listener(context: PatchContext, given: ListenerMatch) -> Match:
    chain = given.filter_chain
    if given.port_name:
        raise DataError(".match.listener.portName is not looked at, as in Istio; write portNumber")
    if chain is None:
        return Match(context, given.port_number, given.name, given.listener_filter)
    return Match(
        context,
        given.port_number,
        given.name,
        given.listener_filter,
        chain=chain.name,
        server_name=chain.sni,
        transport=chain.transport_protocol,
        applications=tuple(filter(None, (one.strip() for one in chain.application_protocols.split(",")))),
        chain_port=chain.destination_port,
        filter=chain.filter.name if chain.filter else "",
        sub_filter=_sub_filter(chain.filter),
    )


def _of_routes(context: PatchContext, given: RouteConfigurationMatch) -> Match:
    for name, value in (("gateway", given.gateway), ("portName", given.port_name)):
        if value:
            raise DataError(f".match.routeConfiguration.{name} is for gateways; remove it")
    host = given.vhost
    route = host.route if host is not None else None
    return Match(
        context,
        given.port_number,
        routes=given.name,
        host=host.name if host else "",
        domain=host.domain_name if host else "",
        has_route=route is not None,
        route=route.name if route else "",
        action=route.action if route else RouteAction.ANY,
    )


def _sub_filter(given: FilterMatch | None) -> str:
    return given.sub_filter.name if given is not None and given.sub_filter is not None else ""
