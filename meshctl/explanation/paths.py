"""Which way a connection goes, from what the ztunnel of the caller's node knows. Pure.

The order is the engine's: a service before a workload; its waypoint before its endpoints; then what the workload takes.
Policy is not decided here: the ztunnel of the called pod's node is asked (``/authorize``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from meshapi import names
from meshctl.description import facts
from meshctl.explanation.question import Destination, Name
from meshctl.proxy_config.dump import Item
from meshctl.session import CommandError

CAPTURED_STATES: Final = frozenset({"captured", "announced"})
"""Of ``/debug/pods``: the pod's new connections go through its tunnel."""
_HBONE: Final = "HBONE"


class Path(StrEnum):
    """How a connection gets to the called pod."""

    TUNNEL = "tunnel"
    """From ztunnel to ztunnel, by mutual TLS."""
    DIRECT = "direct"
    """From pod to pod of one node, authenticated by the kernel and not encrypted."""
    WAYPOINT = "waypoint"
    """By mutual TLS to a waypoint, and from there to the pod."""
    PLAIN = "plain text"
    NOWHERE = "refused"
    """There is no way: the caller's ztunnel refuses."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One of the ways that a connection may take: one for each endpoint.

    Attributes:
        path: how it gets there.
        workload: what is called, from the dump; ``None``: an address that the mesh does not know, or no way.
        address: where the application listens; empty where it is not known before the connection is made.
        port: its port there.
        caller: who the called pod's ztunnel sees, from the dump: the source, or an instance of the waypoint; ``None``:
            none, in plain text.
        why: why there is no way; empty where there is one.
    """

    path: Path
    workload: Item | None = None
    address: str = ""
    port: int = 0
    caller: Item | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Paths:
    """All ways of a connection.

    Attributes:
        kind: of what is called: service, pod, address.
        name: of it, as ``namespace/name``, or the address.
        host: of a service.
        waypoint: namespace and name of the waypoint's Service in the way.
        legs: at least one.
    """

    kind: str
    name: str
    legs: list[Leg]
    host: str = ""
    waypoint: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What a ztunnel knows, and who calls.

    Attributes:
        dump: the ztunnel's ``/config_dump``.
        source: the caller's workload of it.
        is_captured: whether the caller's connections go through its tunnel.
    """

    dump: Item
    source: Item
    is_captured: bool
    _by_uid: dict[str, Item] = field(init=False)

    def __post_init__(self) -> None:
        """Index the workloads."""
        object.__setattr__(self, "_by_uid", {one["uid"]: one for one in self.workloads})

    @property
    def workloads(self) -> Iterable[Item]:
        """All of them."""
        return self.dump.get("workloads") or ()

    @property
    def services(self) -> Iterable[Item]:
        """The services that the caller may use."""
        for one in self.dump.get("services") or ():
            if one.get("visibility") != "Namespace" or one.get("namespace") == self.source.get("namespace"):
                yield one

    def paths(self, asked: Destination) -> Paths:
        """Return the ways to a destination.

        Raises:
            CommandError: nothing has the name.
        """
        service, workload = self._find(asked)
        if service is not None:
            return self._to_service(service, asked.port)
        if workload is not None:
            return self._to_workload(workload, asked)
        return self._to_address(str(asked.what), asked.port)

    def _to_address(self, address: str, port: int) -> Paths:
        is_held = self.is_captured and self.source.get("egress") == names.EGRESS_REGISTRY_ONLY
        if is_held and not any(_is_chosen(one, address, port) for one in self.services):
            label = f"{names.EGRESS_LABEL} is {names.EGRESS_REGISTRY_ONLY}"
            return Paths(
                "address", address, [Leg(Path.NOWHERE, why=f"{address} is not in the service registry and {label}")]
            )
        return Paths("address", address, [Leg(Path.PLAIN, address=address, port=port)])

    def _find(self, asked: Destination) -> tuple[Item | None, Item | None]:
        """Return the service, or the workload."""
        what = asked.what
        if isinstance(what, IPv4Address | IPv6Address):
            address = str(what)
            service = next((one for one in self.services if address in map(_bare, one.get("vips") or ())), None)
            return service, next((one for one in self.workloads if _is_at(one, address)), None)
        service = None if what.kind == "pod" else self._service(what)
        workload = None if what.kind == "service" else facts.find(self.workloads, *what.key)
        if service is None and workload is None:
            raise CommandError(f"ztunnel knows no {what.kind or 'service or pod'} {'/'.join(what.key)}")
        return service, workload

    def _service(self, what: Name) -> Item | None:
        """Return a service by its whole host, or by name and namespace."""
        by_host = next((one for one in self.services if one.get("hostname") == what.host), None)
        return by_host or facts.find(self.services, *what.key)

    def _to_service(self, service: Item, port: int) -> Paths:
        name, host = f"{service.get('namespace', '')}/{service.get('name', '')}", service.get("hostname", "")
        waypoint = self._waypoint_of(service)
        caller = self.source
        if waypoint is not None:
            found = self._instance(waypoint)
            if found is None:
                why = f"no pod of waypoint {'/'.join(waypoint)} is known"
                return Paths("service", name, [Leg(Path.NOWHERE, why=why)], host, waypoint)
            caller = found
        if str(port) not in (service.get("ports") or {}):
            return Paths("service", name, [Leg(Path.NOWHERE, why=f"service {host} has no port {port}")], host, waypoint)
        legs = [
            self._leg(workload, port=self._target(service, endpoint, port), caller=caller, waypoint=waypoint)
            for endpoint in (service.get("endpoints") or {}).values()
            if endpoint.get("status", "Healthy") == "Healthy" and str(port) in (endpoint.get("port") or {})
            if (workload := self._by_uid.get(endpoint.get("workloadUid", ""))) is not None
        ]
        without = Leg(Path.NOWHERE, why=f"service {host} has no endpoint that is ready and has the port")
        return Paths("service", name, legs or [without], host, waypoint)

    def _to_workload(self, workload: Item, asked: Destination) -> Paths:
        waypoint = self._waypoint_of(workload)
        name = f"{workload.get('namespace', '')}/{workload.get('name', '')}"
        caller = self.source if waypoint is None else self._instance(waypoint)
        if caller is None:
            why = f"no pod of waypoint {'/'.join(waypoint or ())} is known"
            return Paths("pod", name, [Leg(Path.NOWHERE, why=why)], waypoint=waypoint)
        leg = self._leg(workload, port=asked.port, caller=caller, waypoint=waypoint)
        return Paths("pod", name, [leg], waypoint=waypoint)

    def _leg(self, workload: Item, *, port: int, caller: Item, waypoint: tuple[str, str] | None) -> Leg:
        address = next(iter(workload.get("workloadIps") or ()), "")
        if not self.is_captured:
            return Leg(Path.PLAIN, workload, address, port)
        if workload.get("network", "") != caller.get("network", ""):
            return Leg(Path.NOWHERE, why=f"{workload['uid']} is on another network, to which no gateway leads")
        takes_tunnels = workload.get("protocol") == _HBONE
        if waypoint is not None:
            return Leg(Path.WAYPOINT, workload, address, port, caller if takes_tunnels else None)
        if not takes_tunnels:
            return Leg(Path.PLAIN, workload, address, port)
        path = Path.DIRECT if _joined(address, port) in self._direct() else Path.TUNNEL
        return Leg(path, workload, address, port, caller)

    def _direct(self) -> Sequence[str]:
        """Return what the caller connects to directly, as ``address:port``."""
        key = {"name": self.source.get("name"), "namespace": self.source.get("namespace")}
        for pod in (self.dump.get("workloadState") or {}).values():
            if key.items() <= (pod.get("info") or {}).items():
                return pod.get("directDestinations") or ()
        return ()

    def _waypoint_of(self, item: Item) -> tuple[str, str] | None:
        """Return the waypoint in the way of a captured caller; an instance of it calls the destination itself."""
        destination = str((item.get("waypoint") or {}).get("destination", ""))
        if not self.is_captured or destination in (self.source.get("services") or ()):
            return None
        return facts.waypoint_of(item)

    def _instance(self, waypoint: tuple[str, str]) -> Item | None:
        """Return a pod of a waypoint."""
        service = facts.find(self.dump.get("services") or (), *waypoint)
        endpoints = ((service or {}).get("endpoints") or {}).values()
        return next((found for one in endpoints if (found := self._by_uid.get(one.get("workloadUid", "")))), None)

    def _target(self, service: Item, endpoint: Item, port: int) -> int:
        return int(endpoint["port"][str(port)] or service["ports"][str(port)])


def _is_at(workload: Item, address: str) -> bool:
    """Return whether a workload is found by an address; those on their node's network share it, and none of them is."""
    return address in (workload.get("workloadIps") or ()) and workload.get("networkMode") != "HostNetwork"


def _is_chosen(service: Item, address: str, port: int) -> bool:
    """Return whether clients of a service may choose an address: one of its ranges has it."""
    ranges = (ip_network(one["cidr"]) for one in service.get("cidrVips") or ())
    return str(port) in (service.get("ports") or {}) and any(ip_address(address) in one for one in ranges)


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _bare(address: str) -> str:
    """Return an address without its network (``network/address``)."""
    return address.rpartition("/")[2]


def address_of(workload: Item, like: str) -> str:
    """Return the address that a workload has in the version of IP of another one; empty where it has none."""
    version = ip_address(like).version if like else 4
    addresses = workload.get("workloadIps") or ()
    return next((one for one in addresses if ip_address(one).version == version), "")


def identity(workload: Item) -> str:
    """Return the SPIFFE URI of a workload."""
    account = f"ns/{workload.get('namespace', '')}/sa/{workload.get('serviceAccount', '')}"
    return f"spiffe://{workload.get('trustDomain', '')}/{account}"
