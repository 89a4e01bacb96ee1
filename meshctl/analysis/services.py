"""ServiceEntry, WorkloadEntry and the ports of services."""

from collections.abc import Iterator
from typing import Final

from meshapi.resources import core, networking
from meshctl.analysis.messages import Code, Finding
from meshctl.analysis.policies import chooses
from meshctl.analysis.world import World

_PROTOCOLS: Final = frozenset(
    {"http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "mysql", "redis"}
)
"""What the name of a port may be, or begin with before a dash (Istio, "Explicit protocol selection")."""


def check(world: World) -> Iterator[Finding]:
    """Return what is wrong with services and entries."""
    for service in world.all(core.Service):
        yield from _ports(world, service)
    for entry in world.all(networking.ServiceEntry):
        yield from world.unknown(entry)
        yield from _entry(world, entry)
    for workload in world.all(networking.WorkloadEntry):
        yield from world.unknown(workload)
    yield from _hosts(world)


def _ports(world: World, service: core.Service) -> Iterator[Finding]:
    if service.spec.type == "ExternalName" or service.metadata.namespace in ("kube-system", world.root_namespace):
        return
    for index, port in enumerate(service.spec.ports):
        if port.protocol != "TCP" or port.app_protocol or _says_protocol(port.name):
            continue
        text = f"{port.name!r} says no protocol, so the port is plain TCP; name it as http-web, or give appProtocol"
        yield world.finding(Code.PORT_NAME, service, f"spec.ports[{index}].name", text)


def _says_protocol(name: str) -> bool:
    return name in _PROTOCOLS or name.partition("-")[0] in _PROTOCOLS


def _entry(world: World, entry: networking.ServiceEntry) -> Iterator[Finding]:
    spec = entry.spec
    selector = spec.workload_selector.labels if spec.workload_selector else {}
    namespace = entry.metadata.namespace
    if selector and world.knows_pods:
        pods = [pod for pod in world.all(core.Pod, namespace) if chooses(selector, pod.metadata.labels)]
        others = [one for one in world.all(networking.WorkloadEntry, namespace) if chooses(selector, one.spec.labels)]
        if not pods and not others:
            shown = ",".join(f"{name}={value}" for name, value in sorted(selector.items()))
            text = f"{shown} chooses no workload; check labels and namespace"
            yield world.finding(Code.CHOOSES_NOTHING, entry, "spec.workloadSelector.labels", text)
    if spec.resolution is networking.Resolution.STATIC and not spec.endpoints and not selector:
        text = "resolution STATIC without endpoints or workloadSelector leads nowhere; give one of them"
        yield world.finding(Code.NO_ENDPOINTS, entry, "spec.endpoints", text)


def _hosts(world: World) -> Iterator[Finding]:
    """Of the entries of one namespace that claim a host the oldest has it, and a service goes before all of them."""
    services = {
        f"{service.metadata.name}.{service.metadata.namespace}.svc.{world.cluster_domain}": service
        for service in world.all(core.Service)
    }
    claims: dict[tuple[str, str], list[networking.ServiceEntry]] = {}
    for entry in world.all(networking.ServiceEntry):
        for host in dict.fromkeys(entry.spec.hosts):
            claims.setdefault((entry.metadata.namespace, host), []).append(entry)
    for (namespace, host), found in claims.items():
        owner, *rest = sorted(found, key=lambda entry: (entry.metadata.creation_timestamp or "9", entry.key))
        service = services.get(host)
        if service is not None and service.metadata.namespace == namespace:
            rest, taken = found, f"Service {'/'.join(service.key)}"
        else:
            taken = f"ServiceEntry {'/'.join(owner.key)}, which is older"
        for entry in rest:
            path = f"spec.hosts[{entry.spec.hosts.index(host)}]"
            yield world.finding(Code.HOST_TAKEN, entry, path, f"{host} belongs to {taken}; remove it from one of them")
