"""Threat ``cardinality``: metrics and log injection, cardinality (CVE-2025-43915)."""

import json

import pytest
from hyperframe import frame as frames
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from meshapi.proto import engine_pb2
from meshkit import metrics
from meshproxy import metrics as sources
from tests.integration.threats.conftest import Costs, Scene
from tests.integration.threats.test_dns_proxy import QUESTION, datagrams, dns_scene, head
from tests.support import attacker, namespaced
from tests.support.waiting import until

pytestmark = pytest.mark.root


def series(scene: Scene) -> int:
    families = engine_pb2.MetricFamilies.FromString(scene.server.node.engine.metrics()).families
    return max(len(one.samples) for one in families if one.name.startswith("istio_tcp"))


async def test_self_reported_labels_of_peers_create_a_bounded_number_of_series(scene: Scene) -> None:
    """An unannounced client may describe itself as it likes; here, as another workload each time.

    Three times the bound, over the wire; a million go in where connections are counted (``cardinality_tests.rs``).
    """
    stranger = await scene.mesh.pod("stranger", captured=False)
    identity = "spiffe://cluster.local/ns/shop/sa/stranger-of-another-network"
    authority = scene.mesh.authority
    context = attacker.tls_context(*authority.issue(identity), authority.roots)
    costs = Costs.now()
    async with scene.others_are_served():
        for batch in range(60):
            async with attacker.attacker(stranger, scene.server, context=context) as attack:
                for number in range(100):
                    host = f"host-{batch}-{number}"
                    reported = f"service.name={host},k8s.deployment.name={host},k8s.namespace.name={host}"
                    # A port without a listener: counted and over.
                    attack.connect(2 * number + 1, f"{scene.server.ip}:81", ("baggage", reported))
                await attack.answer(199)
        assert series(scene) < 2_500
    assert costs.memory_mib < 64
    # Announced workloads are still counted by name.
    assert scene.metric("istio_tcp_connections_opened", source_workload="client", destination_workload="server") > 0
    # A client cannot claim another namespace.
    assert scene.metric("istio_tcp_connections_opened", source_workload_namespace="host-0-0") == 0


@pytest.mark.parametrize("form", ["JSON", "TEXT"])
async def test_no_logged_value_ends_its_line_or_imitates_another_field(form: str) -> None:
    access_log = engine_pb2.AccessLog.Value(form)
    async with namespaced.mesh(settings={"access_log": access_log}) as mesh:
        server = await mesh.pod("server", node=1)
        outsider = await mesh.pod("outsider", captured=False)
        scene = Scene(mesh, server, outsider, outsider, await server.serve_peer(8080))
        # An unannounced source: only then are its self-reported labels used.
        mesh.withdraw(outsider)
        evil = 'x" src.identity="spiffe://cluster.local/ns/shop/sa/admin" \\" \t {"level":"error"}'
        sent = [
            ("baggage", f"k8s.deployment.name={evil},k8s.namespace.name={evil},k8s.cluster.name={evil}"),
            ("forwarded", f"host={evil}"),
            ("baggage", "k8s.cluster.name=a\r\nb"),
            ("baggage", "k8s.cluster.name=a\x00b"),
            ("baggage", "k8s.cluster.name=ÿ\u2028\x9b\x7f"),
        ]
        wishes = [(scene.authority, *header) for header in sent]
        names = [
            'a" b="c:80',
            "a\r\nb:80",
            "a\tb:80",
            "ü\u2028:80",
            f"{server.ip}\x00:80",
            'x" level="error:80',
            "a\\:80",
        ]
        for authority, *header in wishes + [(name, "forwarded", "host=x") for name in names]:
            async with scene.attack() as attack:
                attack.connect(1, authority, tuple(header))
                # A header that HTTP does not allow is an error of the connection.
                ends = frames.HeadersFrame | frames.GoAwayFrame | frames.RstStreamFrame
                await attack.wait(lambda one, ends=ends: isinstance(one, ends))
        await until(lambda: len(scene.server.node.lines) >= 2)
        exposed = generate_latest(
            metrics.registry("ztunnel", sources.engine(scene.server.node.engine.metrics))
        ).decode()
        shown = [sample.labels for family in text_string_to_metric_families(exposed) for sample in family.samples]
        assert any(labels.get("source_workload") == evil for labels in shown), "as one value, and whole"
        assert all("admin" not in labels.get("source_principal", "") for labels in shown)
        for line in scene.server.node.lines:
            if form == "JSON":
                fields = json.loads(line)
                assert fields.get("src.identity", outsider.identity) == outsider.identity
            else:
                outside = unquoted(line)
                assert outside.count("src.identity=") <= 1, line
                assert "level" not in outside.split("\t", 4)[4]


def unquoted(line: str) -> str:
    """The parts of a text line outside quotes."""
    assert line.count("\t") == 4, line
    assert line.replace("\t", "").isprintable(), line
    return "".join(line.replace("\\\\", "").replace('\\"', "").split('"')[::2])


@pytest.mark.parametrize("form", ["JSON", "TEXT"])
async def test_an_invalid_host_name_is_not_logged(form: str) -> None:
    """The name in an application's DNS query is logged only if it could be a host name."""
    labels = [b'a" domain="b', b"a\r\nb", b"\xff\xc2\x9b", b"\0", b"\\", b"a\tb", "ü\u2028".encode()]
    async with dns_scene(access_log=engine_pb2.AccessLog.Value(form)) as scene:
        node = scene.client.node
        for label in labels:
            with datagrams(scene.client, scene.ip) as sock:
                sock.send(head() + bytes([len(label)]) + label + b"\x03com\0" + QUESTION)
        await until(lambda: len(node.lines) >= len(labels))
        for line in node.lines[: len(labels)]:
            domain = (
                json.loads(line)["domain"] if form == "JSON" else line.partition("domain=")[2].split()[0].strip('"')
            )
            assert domain == ""
            assert form == "JSON" or unquoted(line).count("domain=") == 1
