"""What counts as healthy."""

from datetime import UTC, datetime, timedelta
from typing import Any

from meshctl import health
from meshctl.components import Part, Readiness
from meshctl.health import Health, Node, Sync
from meshctl.pages import Process, Sample

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WELL = Node("n1", agent=True, ztunnel=True, sync=Sync.SYNCED, captured=3, connected=True, plugin=True, certificates=2)


def process(part: Part, *, ready: bool = True, **status: Any) -> Process:
    return Process(part, "istio-system", f"{part.object_name}-1", "n1", ready, {"metadata": {}, "status": status})


def stream(**types: dict[str, Any]) -> dict[str, Any]:
    return {"node": "n1", "types": types}


def test_a_healthy_mesh_has_no_problems() -> None:
    parts = [Readiness(part, 1, 1, settled=True) for part in Part]
    assert health.problems(parts, [WELL], [process(part) for part in Part], NOW) == []


def test_each_fault_is_a_sentence() -> None:
    parts = [Readiness(Part.ZTUNNEL, 2, 1, settled=True)]
    node = Node(
        "n1", agent=True, ztunnel=True, sync=Sync.REFUSED, captured=3, connected=False, plugin=False,
        certificates=1, missing=2, expires=NOW - timedelta(seconds=1),
    )  # fmt: skip
    broken = process(Part.ZTUNNEL, ready=False, phase="Running")
    assert health.problems(parts, [node], [broken], NOW) == [
        "ztunnel: 1 of 2 ready",
        "ztunnel on n1 (ztunnel-1): not ready yet",
        "n1: ztunnel is not connected to the node agent: enrolled pods cannot start",
        "n1: the CNI plugin is not in place: new pods are captured late",
        "n1: ztunnel and control plane: refused",
        "n1: 2 identities have no certificate",
        "n1: a certificate expired at 2025-12-31 23:59:59Z",
    ]


def test_a_node_agent_that_does_not_answer_is_a_problem() -> None:
    node = health.of_node("n1", [process(Part.NODE_AGENT)], None, Sync.SYNCED)
    assert health.problems([], [node], [], NOW) == ["n1: the node agent does not answer"]


def test_a_node_is_read_from_its_agents_metrics() -> None:
    expiry = "culvert_certificate_expiry_timestamp_seconds"
    samples = [
        Sample("culvert_captured_pods", {}, 4.0),
        Sample("ztunnel_connected", {}, 1.0),
        Sample("istio_cni_install_ready", {}, 1.0),
        Sample(expiry, {"identity": "a"}, (NOW + timedelta(hours=2)).timestamp()),
        Sample(expiry, {"identity": "b"}, (NOW + timedelta(hours=1)).timestamp()),
        Sample(expiry, {"identity": "c"}, 0.0),
    ]
    node = health.of_node("n1", [process(Part.NODE_AGENT), process(Part.ZTUNNEL)], samples, Sync.SYNCED)
    assert node == Node(
        "n1", agent=True, ztunnel=True, sync=Sync.SYNCED, captured=4, connected=True, plugin=True,
        certificates=2, missing=1, expires=NOW + timedelta(hours=1),
    )  # fmt: skip
    assert "2, first ends in 1 h 0 min" in health.table(Health([], [node]), NOW)


def test_synchronisation() -> None:
    assert health.sync_of("n1", []) is Sync.NOT_CONNECTED
    good, behind, refusing = {"sent": 2, "acked": 2}, {"sent": 2, "acked": 1}, {"sent": 2, "acked": 1, "nacked": 2}
    assert health.sync_of("n1", [stream(wds=good)]) is Sync.SYNCED
    assert health.sync_of("n1", [stream(wds=good, wads=behind)]) is Sync.BEHIND
    assert health.sync_of("n1", [stream(wds=refusing)]) is Sync.REFUSED


def draining(**status: Any) -> Process:
    metadata = {"deletionTimestamp": "2026-01-01T01:00:00Z"}
    return Process(Part.ZTUNNEL, "istio-system", "ztunnel-old", "n1", False, {"metadata": metadata, "status": status})


def test_a_draining_ztunnel_is_shown_and_is_no_problem() -> None:
    drain = health.drain_of(draining(), [Sample("culvert_open_connections", {}, 3.0)])
    expected = "n1: ztunnel-old drains 3 open connections, until 01:00:00Z at the latest"
    assert str(drain) == expected
    assert health.problems([], [WELL], [draining()], NOW) == []
    assert expected in health.table(Health([], [WELL], drains=[drain]), NOW)
    [document] = Health([], [WELL], drains=[drain]).document["draining"]
    assert (document["pod"], document["connections"]) == ("ztunnel-old", 3)


def test_a_draining_ztunnel_that_does_not_answer_is_shown_too() -> None:
    assert "an unknown number of open connections" in str(health.drain_of(draining(), None))


def test_the_json_document_has_the_same_content() -> None:
    document = Health([Readiness(Part.ZTUNNEL, 1, 1, settled=True)], [WELL], ["bad"]).document
    assert document["healthy"] is False
    assert document["nodes"][0]["capturedPods"] == 3


def test_pods_are_shown_where_they_are_asked_for() -> None:
    captured = {"node": "n1", "namespace": "shop", "name": "web", "uid": "u1", "state": "announced",
                "since": "2026-01-01T00:00:00Z", "backend": "nftables", "reason": ""}  # fmt: skip
    alone = captured | {"name": "db", "state": "not-enrolled", "backend": None, "reason": "the pod has a sidecar"}
    found = Health([], [WELL], pods=[captured, alone])
    table = health.table(found, NOW).splitlines()
    assert [line.split()[:2] for line in table[-2:]] == [["shop", "db"], ["shop", "web"]]
    assert table[-2].endswith("the pod has a sidecar")
    assert found.document["pods"] == [captured, alone]
    assert "pods" not in Health([], [WELL]).document
    assert "REASON" not in health.table(Health([], [WELL]), NOW)
