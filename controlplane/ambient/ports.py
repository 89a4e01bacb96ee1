"""Service ports as proxies see them: numbers, named targets, application protocols.

Only TCP ports are translated: tunnels carry nothing else, and a UDP port with the number of a TCP port would hide it.
"""

from typing import Final

from meshapi.proto import workload_pb2
from meshapi.resources.core import EndpointSlice, Pod, Service, ServicePort

_PROTOCOLS: Final = {
    "http": workload_pb2.HTTP11,
    "http2": workload_pb2.HTTP2,
    "kubernetes.io/h2c": workload_pb2.HTTP2,
    "kubernetes.io/ws": workload_pb2.HTTP11,
    "grpc": workload_pb2.GRPC,
    "grpc-web": workload_pb2.HTTP11,
    "https": workload_pb2.TLS,
    "kubernetes.io/wss": workload_pb2.TLS,
    "tls": workload_pb2.TLS,
    "tcp": workload_pb2.TCP,
}
"""By ``appProtocol``, or by the port's name up to the first dash (Istio, "Explicit protocol selection")."""


def service_ports(service: Service) -> list[workload_pb2.Port]:
    """Return a service's ports; the target of a named port is 0: each workload has its own number."""
    return [_port(port, target if isinstance(target := _target(port), int) else 0) for port in _tcp_ports(service)]


def pod_ports(service: Service, pod: Pod) -> workload_pb2.PortList:
    """Return the ports by which ``service`` reaches ``pod``; a named port that the pod lacks is left out."""
    result = workload_pb2.PortList()
    for port in _tcp_ports(service):
        target = _target(port)
        number = target if isinstance(target, int) else _named_port(pod, target)
        if number:
            result.ports.append(_port(port, number))
    return result


def datagram_target(service: Service, pod: Pod, number: int) -> int:
    """Return the pod's number of a service's UDP port; 0: it has none."""
    for port in service.spec.ports:
        if port.protocol == "UDP" and port.port == number:
            target = _target(port)
            return target if isinstance(target, int) else _named_port(pod, target, "UDP")
    return 0


def slice_ports(service: Service, endpoints: EndpointSlice) -> workload_pb2.PortList:
    """Return the ports by which ``service`` reaches the endpoints of one of its slices, paired by name."""
    numbers = {port.name: port.port for port in endpoints.ports if port.protocol == "TCP" and port.port}
    result = workload_pb2.PortList()
    for port in _tcp_ports(service):
        if port.name in numbers:
            result.ports.append(_port(port, numbers[port.name]))
    return result


def _tcp_ports(service: Service) -> list[ServicePort]:
    return [port for port in service.spec.ports if port.protocol == "TCP"]


def _target(port: ServicePort) -> int | str:
    target = port.target_port
    if isinstance(target, str) and target.isdecimal():
        return int(target)
    return target or port.port


def _named_port(pod: Pod, name: str, protocol: str = "TCP") -> int:
    # Init containers that keep running (native sidecars) may serve a port, too; ordinary ones just never match later.
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        for port in container.ports:
            if port.name == name and port.protocol == protocol:
                return port.container_port
    return 0


def protocol_of(name: str, app_protocol: str) -> workload_pb2.AppProtocol:
    """Return a port's application protocol by its ``appProtocol``, else by its name."""
    word = app_protocol.lower() or name.split("-", 1)[0].lower()
    if name.startswith("grpc-web") and not app_protocol:
        word = "grpc-web"
    return _PROTOCOLS.get(word, workload_pb2.UNKNOWN)


def _port(port: ServicePort, target: int) -> workload_pb2.Port:
    protocol = protocol_of(port.name, port.app_protocol)
    return workload_pb2.Port(service_port=port.port, target_port=target, app_protocol=protocol)
