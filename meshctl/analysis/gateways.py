"""Gateways of Istio's API: pods that they select, ports that no Service has, conflicts, VirtualServices at them."""

from collections.abc import Iterable, Iterator
from itertools import combinations

from meshapi import hosts
from meshapi.resources import core, virtual_service
from meshapi.resources.istio_gateway import Gateway, Server, can_share_port, contested_hosts, server_host
from meshapi.resources.virtual_service import VirtualService
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.policies import chooses
from meshctl.analysis.world import World

_MESH = "mesh"


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with Gateways, and with VirtualServices that name them."""
    gateways = {one.key: one for one in world.all(Gateway)}
    for gateway in gateways.values():
        yield from world.unknown(gateway)
        if world.knows_pods:
            yield from _pods(world, gateway)
    yield from _conflicts(world, gateways.values())
    for item in world.all(VirtualService):
        for index, name in enumerate(item.spec.gateways):
            if name == _MESH:
                continue
            key = virtual_service.gateway_key(name, item.metadata.namespace)
            found = gateways.get(key)
            if found is None:
                text = f"there is no Gateway {'/'.join(key)}; correct the name, or write NAMESPACE/NAME"
                yield world.finding(Code.REFERENCED, item, f"spec.gateways[{index}]", text)
            else:
                yield from _hosts(world, item, index, found)


def _pods(world: World, gateway: Gateway) -> Iterator[Finding]:
    """Return what of a Gateway no pod serves, or no client of a Service reaches."""
    selector = gateway.spec.selector
    pods = [pod for pod in world.all(core.Pod) if selector and chooses(selector, pod.metadata.labels)]
    if not pods:
        shown = ",".join(f"{name}={value}" for name, value in sorted(selector.items())) or "no label"
        text = f"{shown} chooses no pod, so nothing serves it; install a gateway, or correct the labels"
        yield world.finding(Code.REFERENCED, gateway, "spec.selector", text)
        return
    ports = {
        number
        for service in world.all(core.Service)
        for pod in pods
        if service.metadata.namespace == pod.metadata.namespace
        and service.spec.selector
        and chooses(service.spec.selector, pod.metadata.labels)
        for port in service.spec.ports
        for number in (port.port, port.target_port)
    }
    for index, server in enumerate(gateway.spec.servers):
        if server.port.number not in ports:
            text = f"no Service of the gateway's pods has port {server.port.number}; add it to the Service"
            yield world.finding(Code.GATEWAY_PORT, gateway, f"spec.servers[{index}].port.number", text)


def _conflicts(world: World, gateways: Iterable[Gateway]) -> Iterator[Finding]:
    """Return the servers that an older one of the same pods leaves no place."""
    by_age = sorted(gateways, key=lambda one: one.metadata.age)
    every = [(one, index, server) for one in by_age for index, server in enumerate(one.spec.servers)]
    for (older, _, first), (younger, index, second) in combinations(every, 2):
        if not _share_pods(world, older, younger) or not (why := _conflict(first, second)):
            continue
        text = f"Gateway {'/'.join(older.key)} is older and {why} at port {second.port.number}, so this is not served"
        yield world.finding(Code.GATEWAY_CONFLICT, younger, f"spec.servers[{index}]", text)


def _share_pods(world: World, one: Gateway, other: Gateway) -> bool:
    both = {**one.spec.selector, **other.spec.selector}
    if any(both[name] != value for name, value in one.spec.selector.items()):
        return False
    if one.spec.selector == other.spec.selector:
        return True
    return world.knows_pods and any(chooses(both, pod.metadata.labels) for pod in world.all(core.Pod))


def _conflict(first: Server, second: Server) -> str:
    """Return what the first of two servers has that the second one needs; empty: both can be served."""
    if (first.port.number, first.bind) != (second.port.number, second.bind):
        return ""
    if not can_share_port(first, second):
        return f"speaks {first.port.protocol}"
    same = contested_hosts(first, second)
    return f"has {', '.join(sorted(same))}" if same else ""


def _hosts(world: World, item: VirtualService, index: int, gateway: Gateway) -> Iterator[Finding]:
    own = item.metadata.namespace
    served = (server_host(host, gateway.metadata.namespace) for one in gateway.spec.servers for host in one.hosts)
    admitted = [name for scope, name in served if scope in {"*", own}]
    complete = (hosts.complete(host, own, world.cluster_domain) for host in item.spec.hosts)
    lost = [host for host in complete if not any(_overlap(host, one) for one in admitted)]
    if lost and _MESH not in item.spec.gateways:
        text = f"no server of Gateway {'/'.join(gateway.key)} has {', '.join(lost)} for namespace {own}"
        yield world.finding(Code.GATEWAY_HOST, item, f"spec.gateways[{index}]", text)


def _overlap(one: str, other: str) -> bool:
    return hosts.matches(one, other) or hosts.matches(other, one)
