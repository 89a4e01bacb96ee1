"""The access log as OpenTelemetry records, from ztunnel as a process."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.support import namespaced, ztunnels
from tests.support.collector import Collector, attributes, collecting
from tests.support.waiting import until

pytestmark = pytest.mark.root

PORT = 8080
DROPPED = 'culvert_otlp_log_records_dropped_total{reason="queue_full"}'


@pytest.mark.parametrize("lines", ["json", "off"])
async def test_every_connection_is_exported_once_with_any_access_log(tmp_path: Path, lines: str) -> None:
    collector = Collector()
    async with ztunnels.pair(tmp_path, PORT) as (node, server, client), collecting(collector) as port:
        ztunnel = await node.start(
            access_log=lines,
            otel_exporter_otlp_endpoint=f"http://127.0.0.1:{port}",
            otel_resource_attributes="deployment.environment=test",
            otel_blrp_schedule_delay=50,
            cluster_id="Kubernetes",
            handover_s=0,
        )
        await ztunnel.ready()
        for _ in range(20):
            await client.request(server.ip, PORT, b"12345")
        with pytest.raises(OSError):
            await client.request(server.ip, PORT + 1)
        # Refused by the peer, since no application listens there.
        await until(lambda: len(collector.records) >= 21)
        ztunnel.terminate()
        assert await ztunnel.ended() == 0, ztunnel.log
    assert len(collector.records) == 21
    good = collector.connections(direction="outbound", bytes_sent=5, bytes_recv=len(f"{client.ip} 12345"))
    assert len(good) == 20
    assert {one["src.identity"] for one in good} == {client.identity}
    assert {one["dst.identity"] for one in good} == {server.identity}
    assert {one["dst.addr"] for one in good} == {f"{server.ip}:15008"}
    assert len({one["src.addr"] for one in good}) == 20
    [bad] = [record for record in collector.records if record.severity_number != 9]
    assert (bad.severity_number, bad.severity_text) == (17, "ERROR")
    assert attributes(bad.attributes)["error"]
    for record in collector.records:
        assert record.body.string_value == "connection complete"
        assert 0 < record.time_unix_nano <= record.observed_time_unix_nano
        assert (len(record.trace_id), len(record.span_id)) == (16, 8)
    assert len({record.trace_id for record in collector.records}) == 21
    for request in collector.requests:
        [resource_logs] = request.resource_logs
        resource = attributes(resource_logs.resource.attributes)
        assert resource["service.name"] == "ztunnel"
        assert resource["service.version"]
        assert (resource["k8s.node.name"], resource["k8s.cluster.name"]) == ("node-0", "Kubernetes")
        assert resource["deployment.environment"] == "test"
    written = [json.loads(line) for line in re.findall(r"^{.*$", ztunnel.log, re.MULTILINE)]
    written = [line for line in written if line["scope"] == "access"]
    if lines == "off":
        assert written == []
    else:
        head = ("level", "time", "scope", "message")
        fields = [{key: line[key] for key in line if key not in head} for line in written]
        sent = [attributes(record.attributes) for record in collector.records]
        assert sorted(fields, key=str) == sorted(sent, key=str), "the same fields, and the same values"


async def test_both_ends_of_a_connection_share_a_trace() -> None:
    async with namespaced.mesh(settings={"access_log_records": True}) as mesh:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client")
        await server.serve_peer(PORT)
        for _ in range(3):
            await client.request(server.ip, PORT)
        await until(lambda: len(client.node.records) == len(server.node.records) == 3)
        ends = [sorted((record.trace_id, record.span_id) for record in pod.node.records) for pod in (client, server)]
        assert ends[0] == ends[1]
        assert len(set(ends[0])) == 3


async def test_an_unreachable_collector_delays_nothing_and_dropped_records_are_counted(tmp_path: Path) -> None:
    collector = Collector()
    async with ztunnels.pair(tmp_path, PORT) as (node, server, client):
        async with collecting(collector) as port:
            ztunnel = await node.start(
                access_log="text",
                otlp_endpoint=f"http://127.0.0.1:{port}",
                otlp_schedule_delay=20,
                otlp_max_queue_size=10,
                handover_s=0,
            )
            await ztunnel.ready()
            await client.request(server.ip, PORT)
            await until(lambda: len(collector.records) == 1)
        requests = 1
        while ztunnel.metric(DROPPED) < 30:
            assert requests < 1000, ztunnel.log
            await client.request(server.ip, PORT)
            requests += 1
        await until(lambda: ztunnel.log.count("connection complete") == requests)
        assert ztunnel.log.count("collector does not take the access log") == 1
        async with collecting(collector, lambda it: it.add_insecure_port(f"127.0.0.1:{port}")):
            await until(lambda: "takes the access log again" in ztunnel.log, within_s=20)
            await client.request(server.ip, PORT)
            await until(lambda: len(collector.records) + ztunnel.metric(DROPPED) == requests + 1)
            await until(lambda: ztunnel.metric("culvert_otlp_log_records_exported_total") == len(collector.records))
            sources = [one["src.addr"] for one in collector.connections()]
            assert len(set(sources)) == len(sources), "nothing twice"
            dropped = ztunnel.metric(DROPPED)
            # The end is sent too.
            await client.request(server.ip, PORT)
            ztunnel.terminate()
            assert await ztunnel.ended() == 0, ztunnel.log
        assert len(collector.records) + dropped == requests + 2


async def test_a_silent_collector_does_not_delay_shutdown(tmp_path: Path) -> None:
    collector = Collector(silent=asyncio.Event())
    async with ztunnels.pair(tmp_path, PORT) as (node, server, client), collecting(collector) as port:
        ztunnel = await node.start(
            otlp_endpoint=f"http://127.0.0.1:{port}", otlp_schedule_delay=20, handover_s=0,
            termination_grace_period_seconds=6,
        )  # fmt: skip
        await ztunnel.ready()
        await client.request(server.ip, PORT)
        await until(lambda: collector.attempts == 1)
        began = asyncio.get_running_loop().time()
        ztunnel.terminate()
        assert await ztunnel.ended() == 0, ztunnel.log
        assert asyncio.get_running_loop().time() - began < 6
        assert "has not taken the end of the access log\trecords=1" in ztunnel.log
