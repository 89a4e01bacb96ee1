"""ztunnel's own pod as a workload of the mesh: its metrics over mutual TLS."""

import asyncio
import json
from pathlib import Path

import pytest

from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.proto import authorization_pb2, engine_pb2
from meshkit.linux import netns
from tests.support import namespaced, ztunnels
from tests.support.waiting import scaled, until

pytestmark = pytest.mark.root

SYSTEM = names.DEFAULT_NAMESPACE
SCRAPE = b"GET /metrics HTTP/1.0\r\n\r\n"


async def scrape(client: namespaced.Pod, ip: str) -> str:
    reader, writer = await client.connect(ip, names.METRICS_PORT)
    try:
        writer.write(SCRAPE)
        async with asyncio.timeout(scaled(5)):
            return (await reader.read(-1)).decode()
    finally:
        writer.close()


async def own_pod(mesh: namespaced.Mesh) -> namespaced.Pod:
    """A pod of ztunnel's that is announced for HBONE, as with the label, and not captured."""
    pod = await mesh.pod("ztunnel", node=1, captured=False, namespace=SYSTEM)
    pod.captured = True
    mesh.announce(pod, native_tunnel=True)
    return pod


async def test_policy_applies_to_a_pod_with_a_native_tunnel_and_it_is_not_captured() -> None:
    async with namespaced.mesh() as mesh:
        ztunnel = await own_pod(mesh)
        await ztunnel.node.add(ztunnel, engine_pb2.WorkloadRef.NATIVE_TUNNEL)
        prometheus, other = await mesh.pod("prometheus"), await mesh.pod("other")
        outsider = await mesh.pod("outsider", captured=False)
        seen = await ztunnel.serve_peer(names.METRICS_PORT)

        answer = await prometheus.request(ztunnel.ip, names.METRICS_PORT)
        assert answer == f"{ztunnel.ip} hello".encode(), "no rules bring back answers to another address"
        line = await ztunnel.node.logged(direction="inbound", dst__workload="ztunnel", dst__namespace=SYSTEM)
        assert (line["src.identity"], line["dst.identity"]) == (prometheus.identity, ztunnel.identity)
        labels = {"destination_workload": "ztunnel", "source_workload": "prometheus", "reporter": "destination"}
        assert ztunnel.node.metric("istio_tcp_connections_opened", **labels) == 1

        match = authorization_pb2.StringMatch(exact=other.identity.removeprefix("spiffe://"))
        mesh.deny("not-other", namespace=SYSTEM, principals=[match])
        with pytest.raises(ConnectionResetError):
            await other.request(ztunnel.ip, names.METRICS_PORT)
        assert (await prometheus.request(ztunnel.ip, names.METRICS_PORT)).endswith(b"hello")
        assert len(seen) == 2
        assert (await outsider.request(ztunnel.ip, names.METRICS_PORT)).endswith(b"hello"), (
            "plain text goes past the proxy"
        )
        for port in (names.OUTBOUND_PORT, names.INBOUND_PLAINTEXT_PORT):
            with pytest.raises(ConnectionRefusedError):
                await outsider.connect(ztunnel.ip, port)


async def test_a_ztunnel_whose_pod_has_the_label_serves_its_metrics_over_mutual_tls(tmp_path: Path) -> None:
    async with namespaced.mesh() as mesh, ztunnels.node_side(tmp_path, mesh.authority) as node:
        pod = await own_pod(mesh)
        prometheus = await mesh.pod("prometheus")
        node.certify(SpiffeId.parse(pod.identity))
        await node.announce(mesh, pod, prometheus)
        settings = {
            "pod_name": "ztunnel", "pod_namespace": SYSTEM, "service_account": "ztunnel", "access_log": "json",
            "metrics_port": names.METRICS_PORT, "readiness_port": names.READINESS_PORT,
        }  # fmt: skip
        space = netns.path(pod.netns)
        unlabelled = await node.start(space, **settings)
        await unlabelled.ready()
        with pytest.raises(ConnectionResetError):
            await scrape(prometheus, pod.ip)
        unlabelled.terminate()
        assert await unlabelled.ended() == 0, unlabelled.log

        ztunnel = await node.start(space, pod_tunnel=names.TUNNEL_LABEL_HTTP, **settings)
        await ztunnel.ready()
        page = await scrape(prometheus, pod.ip)
        seen = next(line for line in page.splitlines() if line.startswith("istio_tcp_connections_opened_total{"))
        for label in (
            'reporter="destination"', f'source_principal="{prometheus.identity}"', 'destination_workload="ztunnel"',
            f'destination_principal="{pod.identity}"', 'connection_security_policy="mutual_tls"',
        ):  # fmt: skip
            assert label in seen

        reader, writer = await prometheus.connect(pod.ip, names.METRICS_PORT)
        writer.write(b"GET /metr")
        await writer.drain()
        await until(lambda: ztunnel.metric('istio_tcp_sockets_open{reporter="destination"}') > 0)
        ztunnel.terminate()
        await until(lambda: "draining" in ztunnel.log, within_s=20)
        writer.write(b"ics HTTP/1.0\r\n\r\n")
        assert b"istio_build" in await reader.read(-1), "what is open when the pod is replaced goes on"
        writer.close()
        assert await ztunnel.ended() == 0, ztunnel.log
        lines = [json.loads(line) for line in ztunnel.log.splitlines() if line.startswith("{")]
        done = [line for line in lines if line.get("dst.workload") == "ztunnel"]
        assert {line["dst.identity"] for line in done} == {pod.identity}
        assert not any("error" in line for line in done)
