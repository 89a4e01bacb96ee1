"""The OpenTelemetry Collector accepts the access log and decodes it as intended."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshlab import programs
from tests.support import ztunnels
from tests.support.certificates import Issuer
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.root

PORT = 8080
START_S = 20
INFO, ERROR = 9, 17

Json = dict[str, Any]


@contextlib.asynccontextmanager
async def collector(folder: Path, tls: Json) -> AsyncIterator[tuple[int, Path]]:
    """Run the collector; yields its port and the file that it writes, a request a line (OTLP's JSON)."""
    port, written, log = free_port(), folder / "collected.json", folder / "collector.log"
    settings = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"} | tls}}},
        "exporters": {"file": {"path": str(written)}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["file"]}},
        },
    }
    # JSON is YAML too.
    (folder / "collector.yaml").write_text(json.dumps(settings))
    program = await asyncio.to_thread(programs.opentelemetry_collector, print)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program / "otelcol", "--config", folder / "collector.yaml", stdout=output, stderr=output
        )
    try:
        await until(lambda: "Everything is ready" in log.read_text() or process.returncode, within_s=START_S)
        assert process.returncode is None, log.read_text()
        yield port, written
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "mutual-tls"])
async def test_connections_arrive_with_their_attributes(tmp_path: Path, secured: bool) -> None:
    tls, given = mutual_tls(tmp_path) if secured else ({}, {"otlp_insecure": "true"})
    scheme = "https" if secured else "http"
    async with collector(tmp_path, tls) as (port, written), ztunnels.pair(tmp_path, PORT) as (node, server, client):
        ztunnel = await node.start(
            otlp_endpoint=f"{scheme}://localhost:{port}", otlp_compression="gzip", otlp_schedule_delay=20,
            cluster_id="Kubernetes", handover_s=0, **given,
        )  # fmt: skip
        await ztunnel.ready()
        for _ in range(3):
            await client.request(server.ip, PORT, b"12345")
        with pytest.raises(OSError):
            await client.request(server.ip, PORT + 1)
        await until(lambda: ztunnel.metric("culvert_otlp_log_records_exported_total") == 4)
        ztunnel.terminate()
        assert await ztunnel.ended() == 0, ztunnel.log
        await until(lambda: len(records(written)) == 4)
    for resource, scope, _ in records(written):
        assert (resource["service.name"], resource["k8s.cluster.name"]) == ("ztunnel", "Kubernetes")
        assert scope["name"] == "access"
    found = [record for _, _, record in records(written)]
    good = [attributes(one) for one in found if one["severityNumber"] == INFO]
    assert len(good) == 3
    for one in good:
        assert (one["src.identity"], one["dst.identity"]) == (client.identity, server.identity)
        assert (one["dst.addr"], one["direction"]) == (f"{server.ip}:15008", "outbound")
        # 64-bit numbers are strings in JSON.
        assert (one["bytes_sent"], one["bytes_recv"]) == ("5", str(len(f"{client.ip} 12345")))
    [bad] = [one for one in found if one["severityNumber"] == ERROR]
    assert (bad["severityText"], bool(attributes(bad)["error"])) == ("ERROR", True)
    for one in found:
        assert one["body"] == {"stringValue": "connection complete"}
        assert 0 < int(one["timeUnixNano"]) <= int(one["observedTimeUnixNano"])
    assert len({one["traceId"] for one in found}) == 4


def mutual_tls(folder: Path) -> tuple[Json, dict[str, object]]:
    """Certificates for both sides; returns the collector's settings and ztunnel's."""
    issuer = Issuer.root()
    (folder / "roots").write_bytes(issuer.pem)
    for name, usage in (("localhost", ExtendedKeyUsageOID.SERVER_AUTH), ("ztunnel", ExtendedKeyUsageOID.CLIENT_AUTH)):
        chain, key = issuer.leaf([x509.DNSName(name)], usages=[usage])
        (folder / name).write_bytes(chain)
        (folder / f"{name}.key").write_bytes(key)
    files = {"cert_file": "localhost", "key_file": "localhost.key", "client_ca_file": "roots"}
    given: dict[str, object] = {
        "otlp_certificate": folder / "roots",
        "otlp_client_certificate": folder / "ztunnel",
        "otlp_client_key": folder / "ztunnel.key",
    }
    return {"tls": {key: str(folder / file) for key, file in files.items()}}, given


def records(written: Path) -> list[tuple[Json, Json, Json]]:
    """Resource attributes, scope and record of each log record."""
    return [
        (attributes(resource["resource"]), scope["scope"], record)
        for line in written.read_text().splitlines()
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


def attributes(owner: Json) -> Json:
    return {one["key"]: next(iter(one["value"].values())) for one in owner["attributes"]}
