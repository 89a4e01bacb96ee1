"""Patches of the routes of a service's port. Istio patches none of a waypoint's: its listeners hold them."""

from typing import Any, Final

from envoy.config.route.v3 import route_components_pb2, route_pb2

from controlplane.envoy import names
from controlplane.envoy.patches import editing, merging
from controlplane.envoy.patches.patch import Match, Patch, Patching
from meshapi.resources.envoy_filter import ApplyTo, Operation, RouteAction

_ACTIONS: Final = {
    RouteAction.ROUTE: "route",
    RouteAction.REDIRECT: "redirect",
    RouteAction.DIRECT_RESPONSE: "direct_response",
}


def patch(configuration: route_pb2.RouteConfiguration, patching: Patching) -> None:
    """Apply the patches to routes.

    Args:
        configuration: is changed.
        patching: the patches.
    """
    if not patching.patches:
        return
    name = configuration.name
    for one in patching.of(ApplyTo.ROUTE_CONFIGURATION):
        if _is_for(one.match, name):
            merging.merge_patch(configuration, one)
            patching.applied(one)
            if configuration.name != name:
                configuration.name = name
                patching.failed(one, f"route configuration {name} is found by its name, which cannot be changed")
    kept = [host for host in configuration.virtual_hosts if _patch_host(name, host, patching)]
    del configuration.virtual_hosts[:]
    configuration.virtual_hosts.extend(kept)
    for one in patching.of(ApplyTo.VIRTUAL_HOST):
        if one.operation is Operation.ADD and _is_for(one.match, name):
            configuration.virtual_hosts.append(one.value)
            patching.applied(one)


def _is_for(match: Match, name: str) -> bool:
    return match.routes in {"", name} and match.port in {0, names.port_of(name)}


def _patch_host(name: str, host: route_components_pb2.VirtualHost, patching: Patching) -> bool:
    """Patch a virtual host; return whether it is still there."""
    for one in patching.of(ApplyTo.VIRTUAL_HOST):
        if one.operation is Operation.ADD or not _is_for_host(one.match, name, host):
            continue
        patching.applied(one)
        if one.value is None or one.operation is Operation.REMOVE:
            return False
        if one.operation is Operation.REPLACE:
            host.CopyFrom(one.value)
        else:
            merging.merge_patch(host, one)
    _patch_routes(name, host, patching)
    return True


def _is_for_host(match: Match, name: str, host: route_components_pb2.VirtualHost) -> bool:
    return _is_for(match, name) and match.host in {"", host.name} and (not match.domain or match.domain in host.domains)


def _patch_routes(name: str, host: route_components_pb2.VirtualHost, patching: Patching) -> None:
    """Patch the present routes first, then add new ones, as Istio does."""
    fitting = [one for one in patching.of(ApplyTo.HTTP_ROUTE) if _is_for_host(one.match, name, host)]
    kept = [route for route in host.routes if _patch_route(route, fitting, patching)]
    del host.routes[:]
    host.routes.extend(kept)
    for one in fitting:
        if one.operation is Operation.REMOVE or one.merges:
            continue
        chosen = _chosen(one.match)
        # Istio puts a route first only if the one is there that the patch names.
        is_missing = chosen is not None and not any(chosen(route) for route in host.routes)
        if one.operation is Operation.INSERT_FIRST and is_missing:
            continue
        if editing.edit(host.routes, one, chosen, len(host.routes)):
            patching.applied(one)


def _patch_route(route: route_components_pb2.Route, fitting: list[Patch], patching: Patching) -> bool:
    """Patch a route; return whether it is still there."""
    for one in fitting:
        if not (one.merges or one.operation is Operation.REMOVE) or not _is_route(one.match, route):
            continue
        patching.applied(one)
        if one.operation is Operation.REMOVE:
            return False
        merging.merge_patch(route, one)
    return True


def _chosen(match: Match) -> editing.Chosen | None:
    return (lambda route: _is_route(match, route)) if match.has_route else None


def _is_route(match: Match, route: Any) -> bool:
    action = _ACTIONS.get(match.action)
    return match.route in {"", route.name} and action in {None, route.WhichOneof("action")}
