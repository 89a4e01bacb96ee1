"""The exporter of the access log, against a gRPC server that answers as collectors do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from prometheus_client import generate_latest

from meshapi.proto import logs_pb2
from meshkit import log, metrics
from meshkit.tasks import Backoff
from meshproxy import metrics as sources
from meshproxy.otlp import settings, wiring
from meshproxy.otlp.exporter import Exporter, Portion, Reason
from meshproxy.otlp.messages import METHOD, Envelope
from tests.support.certificates import Issuer
from tests.support.collector import Collector, Partial, Refuse, attributes, collecting
from tests.support.ports import free_port
from tests.support.waiting import until
from ztunnel.settings import ZtunnelSettings


@pytest.fixture(autouse=True)
def _logging() -> None:
    log.configure()


def portion(*bodies: str) -> Portion:
    records = [logs_pb2.LogRecord(body=logs_pb2.AnyValue(string_value=body)) for body in bodies]
    return Portion(logs_pb2.ScopeLogs(log_records=records).SerializeToString(), len(bodies))


def bodies(collector: Collector) -> list[str]:
    return [record.body.string_value for record in collector.records]


def exporter_to(port: int, *, first_s: float = 0.01, **options) -> Exporter:
    channel = partial(grpc.aio.insecure_channel, f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),))
    envelope = Envelope({"service.name": "ztunnel", "empty": ""}, "1.2")
    given = {"delay_s": 0.0, "timeout_s": 5.0, "backoff": Backoff(first_s=first_s, cap_s=0.05)} | options
    return Exporter(connect=channel, envelope=envelope, **given)


@asynccontextmanager
async def running(exporter: Exporter, within_s: float = 5) -> AsyncIterator[None]:
    task = asyncio.create_task(exporter.run())
    try:
        yield
        await exporter.finish(within_s)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_portions_become_one_request_of_one_resource() -> None:
    collector = Collector()
    async with collecting(collector) as port:
        exporter = exporter_to(port, delay_s=60)
        async with running(exporter):
            exporter.offer([portion("a", "b"), portion("x" * 300)])
            exporter.offer([portion("c")])
    assert bodies(collector) == ["a", "b", "x" * 300, "c"]
    [request] = collector.requests
    [resource_logs] = request.resource_logs
    assert attributes(resource_logs.resource.attributes) == {"service.name": "ztunnel"}
    [scope_logs] = resource_logs.scope_logs
    assert (scope_logs.scope.name, scope_logs.scope.version) == ("access", "1.2")
    assert (exporter.counts.exported, exporter.counts.dropped.total()) == (4, 0)


async def test_large_batches_are_split_into_requests_within_the_size_limit() -> None:
    collector = Collector()
    async with collecting(collector) as port:
        exporter = exporter_to(port, delay_s=60)
        async with running(exporter):
            exporter.offer([portion(f"{number}" + "x" * 250_000) for number in range(40)])
            await until(lambda: collector.attempts > 0)
    assert [body.rstrip("x") for body in bodies(collector)] == [str(number) for number in range(40)]
    assert max(request.ByteSize() for request in collector.requests) < 2 * 1024 * 1024


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED", "ABORTED", "DATA_LOSS"])
async def test_retryable_requests_are_sent_again(code: str) -> None:
    collector = Collector()
    collector.answers.extend([Refuse(grpc.StatusCode[code])] * 3)
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        async with running(exporter):
            exporter.offer([portion("a")])
            await until(lambda: collector.requests)
    assert (bodies(collector), collector.attempts) == (["a"], 4)
    assert (exporter.counts.exported, exporter.counts.dropped.total()) == (1, 0)


async def test_the_retry_delay_of_the_collector_is_honoured() -> None:
    collector = Collector()
    collector.answers.append(Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.4))
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        async with running(exporter):
            began = asyncio.get_running_loop().time()
            exporter.offer([portion("a")])
            await until(lambda: collector.requests)
            assert asyncio.get_running_loop().time() - began >= 0.4
    assert bodies(collector) == ["a"]


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED"])
async def test_permanently_rejected_records_are_counted_and_logged_once(
    code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    collector = Collector()
    collector.answers.extend([Refuse(grpc.StatusCode[code])] * 2)
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        async with running(exporter):
            for attempt, text in enumerate("abc", 1):
                exporter.offer([portion(text)])
                await until(lambda attempt=attempt: collector.attempts == attempt and not exporter.waiting)
    assert bodies(collector) == ["c"]
    assert exporter.counts.dropped == {Reason.REFUSED: 2, Reason.REJECTED: 0}
    logged = capsys.readouterr().err
    assert logged.count("collector does not take the access log") == 1, logged
    assert logged.count("collector takes the access log again") == 1, logged


async def test_without_a_collector_the_newest_records_are_kept_and_dropped_ones_counted() -> None:
    port = free_port()
    exporter = exporter_to(port, max_records=10)
    collector = Collector()
    async with running(exporter):
        for number in range(100):
            exporter.offer([portion(f"{number}a", f"{number}b")])
            await asyncio.sleep(0)
        assert exporter.waiting <= 20, "those that wait, and as many under way"
        # Those under way come back, and are the oldest then.
        await until(lambda: exporter.waiting == 10)
        async with collecting(collector, lambda server: server.add_insecure_port(f"127.0.0.1:{port}")):
            await until(lambda: len(collector.records) >= 10)
    kept = [f"{number}{which}" for number in range(95, 100) for which in "ab"]
    assert bodies(collector) == kept
    assert (exporter.counts.exported, exporter.counts.dropped[Reason.QUEUE_FULL]) == (10, 190)


async def test_a_portion_beyond_the_bound_is_not_lost_while_nothing_is_newer() -> None:
    port = free_port()
    exporter = exporter_to(port, max_records=2)
    collector = Collector()
    async with running(exporter):
        exporter.offer([portion("a", "b", "c")])
        async with collecting(collector, lambda server: server.add_insecure_port(f"127.0.0.1:{port}")):
            await until(lambda: collector.requests)
    assert bodies(collector) == ["a", "b", "c"]


async def test_a_collector_that_goes_and_comes_back_gets_each_record_once() -> None:
    collector = Collector()
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        task = asyncio.create_task(exporter.run())
        exporter.offer([portion("before")])
        await until(lambda: exporter.counts.exported == 1)
    exporter.offer([portion("meanwhile")])
    async with collecting(collector, lambda server: server.add_insecure_port(f"127.0.0.1:{port}")):
        await until(lambda: exporter.counts.exported == 2)
        exporter.offer([portion("after")])
        await exporter.finish(5)
    await task
    assert bodies(collector) == ["before", "meanwhile", "after"]
    assert exporter.counts.dropped.total() == 0


async def test_a_partial_success_is_counted_and_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    collector = Collector()
    collector.answers.extend([Partial(1, "too old"), Partial(1, "too old")])
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        async with running(exporter):
            for number in (1, 2):
                exporter.offer([portion("a", "b")])
                await until(lambda number=number: exporter.counts.dropped[Reason.REJECTED] == number)
    assert exporter.counts.exported == 2
    logged = capsys.readouterr().err
    assert logged.count("with reservations") == logged.count("too old") == 1, logged


async def test_shutdown_waits_for_a_silent_collector_no_longer_than_its_timeout() -> None:
    collector = Collector(silent=asyncio.Event())
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        exporter.offer([portion("a", "b", "c")])
        began = asyncio.get_running_loop().time()
        async with running(exporter, within_s=0.3):
            pass
        assert 0.3 <= asyncio.get_running_loop().time() - began < 3
        assert exporter.counts.dropped[Reason.SHUTDOWN] == 3


def made(**given: object) -> ZtunnelSettings:
    return ZtunnelSettings(node_name="node1", **given)


def listening_with_tls(issuer: Issuer):
    def listen(server: grpc.aio.Server) -> int:
        chain, key = issuer.leaf([x509.DNSName("localhost")], usages=[ExtendedKeyUsageOID.SERVER_AUTH])
        credentials = grpc.ssl_server_credentials([(key, chain)], issuer.pem, require_client_auth=True)
        return server.add_secure_port("127.0.0.1:0", credentials)

    return listen


async def test_settings_lead_to_the_collector_with_tls_headers_and_compression(tmp_path: Path) -> None:
    issuer = Issuer.root()
    chain, key = issuer.leaf([x509.DNSName("ztunnel")])
    for name, content in (("roots", issuer.pem), ("chain", chain), ("key", key)):
        (tmp_path / name).write_bytes(content)
    collector = Collector()
    async with collecting(collector, listening_with_tls(issuer)) as port:
        exporter = wiring.exporter(
            made(
                otlp_endpoint=f"https://localhost:{port}",
                otlp_certificate=tmp_path / "roots",
                otlp_client_certificate=tmp_path / "chain",
                otlp_client_key=tmp_path / "key",
                otlp_headers="X-Tenant=shop,authorization=Bearer%20a%3Db,nonsense",
                otlp_compression="gzip",
                otlp_resource_attributes="deployment.environment=test,service.name=no,k8s.node.name=other",
            )
        )
        assert exporter is not None
        async with running(exporter):
            exporter.offer([portion("a")])
    assert bodies(collector) == ["a"]
    [metadata] = collector.metadata
    assert (metadata["x-tenant"], metadata["authorization"]) == ("shop", "Bearer a=b")
    found = attributes(collector.requests[0].resource_logs[0].resource.attributes)
    assert (found["service.name"], found["k8s.node.name"]) == ("ztunnel", "other")
    assert found["deployment.environment"] == "test"
    assert (found["k8s.cluster.name"], found["k8s.namespace.name"]) == ("Kubernetes", "istio-system")


async def test_a_collector_of_another_authority_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "roots").write_bytes(Issuer.root().pem)
    collector = Collector()
    async with collecting(collector, listening_with_tls(Issuer.root())) as port:
        exporter = wiring.exporter(made(otlp_endpoint=f"https://localhost:{port}", otlp_certificate=tmp_path / "roots"))
        assert exporter is not None
        async with running(exporter, within_s=1):
            exporter.offer([portion("a")])
    assert collector.attempts == 0
    assert exporter.counts.dropped[Reason.SHUTDOWN] == 1


def test_without_an_endpoint_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert wiring.exporter(made()) is None


def test_variables_for_logs_take_precedence_and_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENDPOINT": "http://all:4317",
        "LOGS_ENDPOINT": "http://logs:4317",
        "HEADERS": "authorization=Bearer%20hidden",
        "TIMEOUT": "2500",
    }.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tunnel")
    found = made()
    assert (found.otlp_endpoint, found.otlp_timeout, found.otlp_service_name) == ("http://logs:4317", 2500, "tunnel")
    assert "hidden" not in found.model_dump_json() + repr(found)


def test_an_invalid_header_is_left_out_and_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    given = "authorization=hidden%0A,x y=hidden,trace-bin=hidden,nonsense,ok=1"
    assert settings.metadata(given, what="otlp-headers") == (("ok", "1"),)
    logged = capsys.readouterr().err
    assert [f"place={place}" in logged for place in (1, 2, 3, 4)] == [True] * 4
    assert "hidden" not in logged
    assert "nonsense" not in logged


async def test_a_request_that_cannot_be_made_does_not_end_the_exporter() -> None:
    collector = Collector()
    async with collecting(collector) as port:
        exporter = exporter_to(port, metadata=(("x y", "hidden"),))
        async with running(exporter):
            exporter.offer([portion("a")])
            await until(lambda: exporter.counts.dropped[Reason.REFUSED] == 1)
    assert collector.attempts == 0


async def test_a_malformed_answer_does_not_end_the_exporter() -> None:
    async def export(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        return b"\xff"

    server = grpc.aio.server()
    service, name = METHOD.strip("/").split("/")
    methods = {name: grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    exporter = exporter_to(port)
    async with running(exporter):
        for number in range(2):
            exporter.offer([portion("a")])
            await until(lambda number=number: exporter.counts.dropped[Reason.REFUSED] == number + 1)
    await server.stop(0)


@pytest.mark.parametrize(
    ("text", "target", "is_plain"),
    [
        ("http://collector", "collector:4317", True),
        ("https://collector.observe.svc:55/", "collector.observe.svc:55", False),
        ("collector:4317", "collector:4317", False),
        ("http://[fd00::1]:4317", "[fd00::1]:4317", True),
    ],
)
def test_endpoints_are_read(text: str, target: str, is_plain: bool) -> None:
    assert settings.Endpoint.parse(text, plain_by_default=False) == settings.Endpoint(target, is_plain)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("http://collector:4318/v1/logs", "leave out /v1/logs"),
        ("ftp://collector", "write http://host:port"),
        ("http://:4317", "write http://host:port"),
        ("http://collector:port", "port"),
    ],
)
def test_an_invalid_endpoint_fails_the_start_with_the_fix(
    text: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ZtunnelSettings.from_command_line(["--node-name=node1", f"--otlp-endpoint={text}"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("--otlp-endpoint: ")
    assert fix in line


async def test_exported_and_dropped_records_are_on_the_metrics_page() -> None:
    collector = Collector()
    collector.answers.append(Partial(1, "one too many"))
    async with collecting(collector) as port:
        exporter = exporter_to(port)
        async with running(exporter):
            exporter.offer([portion("a", "b", "c")])
    registry = metrics.registry("ztunnel", sources.exported(exporter.counts))
    lines = generate_latest(registry).decode().splitlines()
    assert "culvert_otlp_log_records_exported_total 2.0" in lines
    assert 'culvert_otlp_log_records_dropped_total{reason="rejected"} 1.0' in lines
