"""Both ztunnels of a connection report the same labels, else Kiali draws two edges."""

import random
from contextlib import suppress
from dataclasses import dataclass

import pytest

from meshapi import names
from meshapi.proto import engine_pb2, workload_pb2
from tests.support import namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root

SCENARIOS = 60
PORT, CLOSED, DENIED = 8080, 8081, 8082
FAMILIES = ("istio_tcp_connections_opened", "istio_tcp_connections_closed", "istio_tcp_connections_failed")
VIP = "10.99.0.{}"

Report = dict[tuple[str, frozenset[tuple[str, str]]], int]
"""Values by family and all labels but the reporter."""


@dataclass
class Scenario:
    """What the control plane announces of a connection's two ends, and how the client connects."""

    client: workload_pb2.Workload
    server: workload_pb2.Workload
    services: list[workload_pb2.Service]
    ip: str
    port: int
    is_client_known: bool

    def __str__(self) -> str:
        services = [service.hostname for service in self.services]
        return f"{self.ip}:{self.port} of {services}, client known: {self.is_client_known}\n{self.client}{self.server}"


class Generator:
    """Draws scenarios; each has workload names of its own, and so series of its own."""

    def __init__(self, seed: int, client: namespaced.Pod, server: namespaced.Pod) -> None:
        self._draw = random.Random(seed)
        self._client, self._server = client, server
        self.number = 0

    def scenario(self) -> Scenario:
        draw = self._draw
        self.number += 1
        client, server = self._workload(self._client, "client"), self._workload(self._server, "server")
        services = [self._service(number) for number in range(draw.randint(0, 3))]
        for service in services:
            if draw.random() < 0.8:
                ports = workload_pb2.PortList(ports=service.ports)
                server.services[f"{service.namespace}/{service.hostname}"].CopyFrom(ports)
        reachable = [one for one in services if f"{one.namespace}/{one.hostname}" in server.services]
        target = draw.choice([PORT, PORT, CLOSED, DENIED])
        ip, port = self._server.ip, target
        if reachable and draw.random() < 0.5:
            number = services.index(draw.choice(reachable))
            ip, port = VIP.format(number + 1), draw.choice(services[number].ports).service_port
        return Scenario(client, server, services, ip, port, draw.random() < 0.7)

    def _workload(self, pod: namespaced.Pod, role: str) -> workload_pb2.Workload:
        draw, workload = self._draw, pod.workload
        workload.workload_name = f"{role}-{self.number}"
        workload.canonical_name = draw.choice(["", f"{role}-app"])
        workload.canonical_revision = draw.choice(["", "v2"])
        workload.cluster_id = draw.choice(["", "Kubernetes"])
        workload.locality.CopyFrom(workload_pb2.Locality(region=draw.choice(["", "r"]), zone=draw.choice(["", "z"])))
        return workload

    def _service(self, number: int) -> workload_pb2.Service:
        targets = self._draw.sample([PORT, CLOSED, DENIED], self._draw.randint(1, 3))
        address = workload_pb2.NetworkAddress(address=bytes([10, 99, 0, number + 1]))
        ports = [workload_pb2.Port(service_port=80 + port, target_port=target) for port, target in enumerate(targets)]
        name = f"web-{number}"
        hostname = f"{name}.shop.svc.cluster.local"
        return workload_pb2.Service(name=name, namespace="shop", hostname=hostname, addresses=[address], ports=ports)


def reports(node: namespaced.Node, reporter: str, number: int) -> Report:
    """What one end has counted of a scenario."""
    families = engine_pb2.MetricFamilies.FromString(node.engine.metrics()).families
    found = {}
    for family in families:
        for sample in family.samples if family.name in FAMILIES else ():
            labels = dict(zip(family.label_names, sample.label_values, strict=True))
            if labels.pop("reporter") == reporter and labels["destination_workload"] == f"server-{number}":
                found[family.name, frozenset(labels.items())] = sample.value
    return found


async def play(mesh: namespaced.Mesh, scenario: Scenario, client: namespaced.Pod) -> None:
    """Announce both ends and open one connection, with any outcome."""
    for number in range(3):
        hostname = f"web-{number}.shop.svc.cluster.local"
        service = next((one for one in scenario.services if one.hostname == hostname), None)
        if service is not None:
            mesh.apply(f"shop/{hostname}", workload_pb2.Address(service=service))
        else:
            for node in mesh.nodes:
                node.engine.apply(names.ADDRESS_TYPE, [], [f"shop/{hostname}"])
    for workload in (scenario.client, scenario.server):
        mesh.apply(workload.uid, workload_pb2.Address(workload=workload))
    if not scenario.is_client_known:
        mesh.nodes[1].engine.apply(names.ADDRESS_TYPE, [], [scenario.client.uid])
    with suppress(OSError):
        await client.request(scenario.ip, scenario.port)


async def test_source_and_destination_report_the_same_labels() -> None:
    async with namespaced.mesh() as mesh:
        server, client = await mesh.pod("server", node=1), await mesh.pod("client")
        client.in_namespace(namespaced.route_everything)
        await server.serve_peer(PORT)
        await server.serve_peer(DENIED)
        mesh.deny("denied", destination_ports=[DENIED])
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        generator = Generator(seed, client, server)
        flags = set()
        for _ in range(SCENARIOS):
            scenario = generator.scenario()
            await play(mesh, scenario, client)

            def both() -> list[Report]:
                number = generator.number
                return [reports(client.node, "source", number), reports(server.node, "destination", number)]

            def has_ended() -> bool:
                return all(any("closed" in family for family, _ in found) for found in both())

            await until(has_ended)
            source, destination = both()
            differences = [
                f"{family}: source {sorted(mine - theirs)}, destination {sorted(theirs - mine)}"
                for family, mine in source
                for other, theirs in destination
                if family == other and mine != theirs
            ]
            assert source == destination, f"{scenario}\n" + "\n".join(differences)
            flags |= {value for _, labels in source for label, value in labels if label == "response_flags"}
        assert flags == {"-", "DENY", "CONNECT"}, "every outcome was among them"
