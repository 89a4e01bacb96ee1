"""What a lab consists of: names, addresses and ranges, computed from its name, slot and size. Pure.

Several labs can run side by side: the *slot* gives each its own bridge and node network on this computer. Pod and
service ranges are the same in every lab, because they exist only inside its namespaces.

A lab on *hosts*, machines that exist already, has one node on each, and its control plane on the first of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import Final

from meshapi import names
from meshlab.errors import LabError

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

CLUSTER_DOMAIN: Final = names.DEFAULT_CLUSTER_DOMAIN
REGION: Final = "lab"
API_PORT: Final = 6443
MAX_NODES: Final = 50
SLOTS: Final = 64

# 198.18.0.0/15 is for tests of network devices (RFC 2544): no real network uses it.
_MACHINES_V4: Final = "198.18.{slot}.{host}/24"
_MACHINES_V6: Final = "fd18:{slot:x}::{host:x}/64"
_PODS_V4: Final = "10.244.{node}.0/24"
_PODS_V6: Final = "fd00:10:244:{node:x}::/64"
_ALL_PODS: Final = ("10.244.0.0/16", "fd00:10:244::/56")
_SERVICES: Final = ("10.96.0.0/16", "fd00:10:96::/112")
_LOAD_BALANCERS: Final = ("198.18.{slot}.128/25", "fd18:{slot:x}::1:0/112")
"""A part of the machines' network, above their own addresses."""
_DNS_HOST: Final = 10
_BRIDGE_HOST: Final = 1
_CONTROL_HOST: Final = 2
_FIRST_NODE_HOST: Final = 10


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """One machine of a lab.

    Attributes:
        name: host name, and name of the Kubernetes node if it is one.
        interfaces: its addresses on the bridge, IPv4 first.
        pods: ranges that its pods get addresses from; empty for the control plane.
        routes: where other machines' pods, and services, are.
        zone: value of the zone label; empty for the control plane.
    """

    name: str
    interfaces: tuple[Interface, ...]
    pods: tuple[Network, ...]
    routes: tuple[tuple[Network, Address], ...]
    zone: str

    @property
    def address(self) -> Address:
        """First address."""
        return self.interfaces[0].ip

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses, IPv4 first."""
        return tuple(interface.ip for interface in self.interfaces)


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A whole lab.

    Attributes:
        name: what the user calls it.
        slot: number of its network on this computer, 0 to 63.
        bridge: name of the link that joins its machines; empty for a lab on hosts.
        bridge_interfaces: this computer's addresses on the bridge.
        load_balancers: ranges for Services of type LoadBalancer, reached from this computer; none for a lab on hosts.
    """

    name: str
    slot: int
    bridge: str
    bridge_interfaces: tuple[Interface, ...]
    control: MachinePlan
    nodes: tuple[MachinePlan, ...]
    pods: tuple[Network, ...]
    services: tuple[Network, ...]
    load_balancers: tuple[Network, ...] = ()

    @property
    def machines(self) -> tuple[MachinePlan, ...]:
        """The control plane's machine and the nodes."""
        return (self.control, *self.nodes)

    @property
    def dns(self) -> tuple[Address, ...]:
        """Addresses of the name server's Service."""
        return tuple(network[_DNS_HOST] for network in self.services)

    @property
    def api_service(self) -> tuple[Address, ...]:
        """Addresses of the Service ``kubernetes``."""
        return tuple(network[1] for network in self.services)

    @property
    def server(self) -> str:
        """URL of the API server, the same from this computer and from the nodes."""
        return f"https://{self.control.address}:{API_PORT}"


def plan(name: str, *, slot: int, nodes: int, dual_stack: bool) -> LabPlan:
    """Plan a lab.

    Raises:
        LabError: a name that cannot be a host name, or a number of nodes out of range.
    """
    _check(name, nodes)
    families = 2 if dual_stack else 1
    node_names = [f"node{number}" for number in range(1, nodes + 1)]
    interfaces = {
        node: _interfaces(slot, _FIRST_NODE_HOST + number, families) for number, node in enumerate(node_names, start=1)
    }
    ranges = {
        node: _networks((_PODS_V4, _PODS_V6), families, node=number) for number, node in enumerate(node_names, start=1)
    }
    services = _networks(_SERVICES, families)

    def routes_of(machine: str) -> tuple[tuple[Network, Address], ...]:
        return tuple(
            (network, interface.ip)
            for node in node_names
            if node != machine
            for network, interface in zip(ranges[node], interfaces[node], strict=True)
        )

    # The API server has no kube-proxy beside it. Admission webhooks on Service addresses go through the first node,
    # whose kube-proxy hides the source because it is outside the pods' range, so that answers come back that way.
    to_services = tuple(
        (network, interface.ip) for network, interface in zip(services, interfaces[node_names[0]], strict=True)
    )
    # A process of a node (a pod with the host's network) gets a route before kube-proxy gets its packet: any will do.
    # Real nodes have a default route; these have none.
    control = _interfaces(slot, _CONTROL_HOST, families)
    some_way_to_services = tuple((network, interface.ip) for network, interface in zip(services, control, strict=True))
    return LabPlan(
        name=name,
        slot=slot,
        bridge=f"culvert{slot}",
        bridge_interfaces=_interfaces(slot, _BRIDGE_HOST, families),
        control=MachinePlan(
            name="control",
            interfaces=control,
            pods=(),
            routes=(*routes_of("control"), *to_services),
            zone="",
        ),
        nodes=tuple(
            MachinePlan(
                name=node,
                interfaces=interfaces[node],
                pods=ranges[node],
                routes=(*routes_of(node), *some_way_to_services),
                zone=f"{REGION}-{number}",
            )
            for number, node in enumerate(node_names, start=1)
        ),
        pods=_networks(_ALL_PODS, families),
        services=services,
        load_balancers=_networks(_LOAD_BALANCERS, families, slot=slot),
    )


def plan_on_hosts(name: str, *, slot: int, hosts: Sequence[IPv4Address]) -> LabPlan:
    """Plan a lab on machines that exist already, with one address each, of IPv4.

    Raises:
        LabError: a name that cannot be a host name, too many hosts, or a host that is named twice.
    """
    _check(name, len(hosts))
    if len(set(hosts)) != len(hosts):
        raise LabError("--host: an address is given twice; give each machine once")
    pods = [ip_network(_PODS_V4.format(node=number)) for number, _ in enumerate(hosts, start=1)]
    here = [(ip_interface(host),) for host in hosts]
    return LabPlan(
        name=name,
        slot=slot,
        bridge="",
        bridge_interfaces=(),
        control=MachinePlan(name="control", interfaces=here[0], pods=(), routes=(), zone=""),
        nodes=tuple(
            MachinePlan(
                name=f"node{number}",
                interfaces=here[number - 1],
                pods=(pods[number - 1],),
                routes=tuple((net, at) for net, at in zip(pods, hosts, strict=True) if at != host),
                zone=f"{REGION}-{number}",
            )
            for number, host in enumerate(hosts, start=1)
        ),
        pods=_networks(_ALL_PODS, 1),
        services=_networks(_SERVICES, 1),
    )


def _check(name: str, nodes: int) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
        raise LabError(f'--name: "{name}" cannot name a lab; use up to 20 lower-case letters, digits and hyphens')
    if name == "tasks":
        raise LabError(
            '--name: "tasks" is a file of every cgroup (v1), which a lab would need as a folder; use another name'
        )
    if not 1 <= nodes <= MAX_NODES:
        raise LabError(f"--nodes: {nodes} is out of range; use 1 to {MAX_NODES}")


def _interfaces(slot: int, host: int, families: int) -> tuple[Interface, ...]:
    return tuple(
        ip_interface(template.format(slot=slot, host=host)) for template in (_MACHINES_V4, _MACHINES_V6)[:families]
    )


def _networks(templates: tuple[str, str], families: int, **number: int) -> tuple[Network, ...]:
    return tuple(ip_network(template.format(**number)) for template in templates[:families])
