"""Parts deleted one by one under load: each is restored by itself, and nothing leaves a captured pod in plain text."""

import json
import time

import pytest

from meshapi import names
from tests.support.lab import eventually
from tests.support.mesh import SYSTEM, Mesh
from tests.support.wire import captured

pytestmark = pytest.mark.root

NS = "restarts"
SECONDS = 14
ROLLOUT_SECONDS = 60
"""Two nodes one after the other, and the grace period of the last old ztunnel."""
ANY_ZTUNNEL = f"app in (ztunnel,{names.ZTUNNEL_DRAINING})"
KEPT = 5
"""Connections that the load keeps open (``programs/load.py``)."""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Mesh:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1", probe=False)
    mesh.client(NS, "client", "node2")
    for name in ("server", "client"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    return mesh


@pytest.mark.parametrize(
    "selector",
    ["app=istiod", "k8s-app=istio-cni-node", "app=ztunnel"],
    ids=["control-plane", "node-agent", "ztunnel"],
)
def test_a_deleted_part_comes_back_and_nothing_fails_or_leaks(app: Mesh, selector: str) -> None:
    """A ztunnel that is terminated before its successor exists accepts connections until it does."""
    expression = "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16"
    with captured(app.node_link("node1"), expression) as wire:
        load = app.load(NS, "client", "server", SECONDS)
        time.sleep(2)
        app.lab.kubectl("delete", "pods", "-n", SYSTEM, "-l", selector, "--wait=false")
        report = load.report()
    print(f"{selector} deleted under load: {report}")
    app.ready()
    assert wire[0].packets("hello|still here") == 0, "plain text of a captured pod"
    assert report.hanging == 0
    assert report.peers, "connections worked before or after"
    eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "connections work again")
    assert report.failures == []


def test_a_rollout_of_ztunnel_fails_no_connection(app: Mesh) -> None:
    """Both nodes' ztunnels are replaced; connections that are open go on in the old ones."""
    expression = "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16"
    with captured(app.node_link("node1"), expression) as wire:
        load = app.load(NS, "client", "server", ROLLOUT_SECONDS)
        time.sleep(2)
        app.lab.kubectl("rollout", "restart", "-n", SYSTEM, "ds/ztunnel")
        app.ready(within_s=ROLLOUT_SECONDS)
        _the_old_ztunnels_drain(app)
        report = load.report(within_s=ROLLOUT_SECONDS + 30)
    print(f"ztunnel rolled out under load: {report}")
    assert report.failures == []
    assert report.hanging == 0
    assert report.new_ok > ROLLOUT_SECONDS * 20
    assert report.kept_ok > ROLLOUT_SECONDS * KEPT, "open connections went on"
    assert wire[0].packets("hello|still here") == 0, "plain text of a captured pod"


def _the_old_ztunnels_drain(app: Mesh) -> None:
    """The rollout is complete, although the old ztunnels still carry the connections that were open before."""
    serving = app.lab.resource("pods", "-n", SYSTEM, "-l", "app=ztunnel")["items"]
    assert len(serving) == 2
    assert not [pod for pod in serving if "deletionTimestamp" in pod["metadata"]]

    def draining_and_not_ready() -> bool:
        pods = app.lab.resource("pods", "-n", SYSTEM, "-l", f"app={names.ZTUNNEL_DRAINING}")["items"]
        ready = [one["status"] for pod in pods for one in pod["status"]["conditions"] if one["type"] == "Ready"]
        return ready == ["False", "False"]

    eventually(draining_and_not_ready, "the old ztunnels are not ready")
    shown = json.loads(app.culvert("status", "-o", "json").stdout)
    assert shown["healthy"], shown["problems"]
    assert {one["node"] for one in shown["draining"]} == {"node1", "node2"}
    assert all(one["connections"] >= KEPT for one in shown["draining"])


def test_a_deleted_ztunnel_is_replaced_while_it_drains(app: Mesh) -> None:
    """The DaemonSet makes the next pod at once, although the deleted one carries connections for a minute."""
    load = app.load(NS, "client", "server", ROLLOUT_SECONDS)
    [old] = [
        pod["metadata"]["name"]
        for pod in app.lab.resource("pods", "-n", SYSTEM, "-l", "app=ztunnel")["items"]
        if pod["spec"]["nodeName"] == "node1"
    ]
    app.lab.kubectl("delete", "pod", "-n", SYSTEM, old, "--wait=false")
    app.ready(within_s=ROLLOUT_SECONDS / 2)
    assert app.lab.resource("pod", "-n", SYSTEM, old)["metadata"]["labels"]["app"] == names.ZTUNNEL_DRAINING
    report = load.report(within_s=ROLLOUT_SECONDS + 30)
    assert report.failures == []
    assert report.kept_ok > ROLLOUT_SECONDS * KEPT


KILL_THE_WORKER = """
import os, signal
os.kill(int(open("/proc/1/task/1/children").read().split()[0]), signal.SIGKILL)
"""


def test_ztunnels_killed_twice_serve_again_within_a_second_and_leak_nothing(app: Mesh) -> None:
    """The process that serves is killed on both nodes; the kubelet's back-off plays no part."""
    listed = app.lab.resource("pods", "-n", SYSTEM, "-l", "app=ztunnel")["items"]
    # Those that an upgrade has replaced may still be about to end.
    pods = [pod["metadata"]["name"] for pod in listed if "deletionTimestamp" not in pod["metadata"]]
    assert len(pods) == 2
    expression = "tcp and src net 10.244.0.0/16 and dst net 10.244.0.0/16"
    with captured(app.node_link("node1"), expression) as wire:
        load = app.load(NS, "client", "server", SECONDS)
        for _ in range(2):
            time.sleep(3)
            for pod in pods:
                app.lab.kubectl("exec", "-n", SYSTEM, pod, "--", "python3", "-c", KILL_THE_WORKER)
        report = load.report()
    print(f"ztunnels killed twice: {report}")
    assert report.longest_gap_s < 1.0
    assert report.hanging == 0
    assert wire[0].packets("hello|still here") == 0, "plain text of a captured pod"
    states = [
        pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in app.lab.resource("pods", "-n", SYSTEM, "-l", "app=ztunnel")["items"]
    ]
    assert states == [0] * len(states), "repaired inside the container"


def test_a_ztunnel_restarted_without_control_plane_serves_from_its_snapshot(app: Mesh) -> None:
    app.lab.kubectl("scale", "-n", SYSTEM, "deploy/istiod", "--replicas=0")
    try:
        eventually(
            lambda: app.lab.resource("pods", "-n", SYSTEM, "-l", "app=istiod")["items"] == [],
            "no control plane",
            within_s=60,
        )
        app.lab.kubectl("delete", "pods", "-n", SYSTEM, "-l", "app=ztunnel", timeout_s=90)
        app.lab.kubectl("rollout", "status", "-n", SYSTEM, "ds/ztunnel", "--timeout=60s", timeout_s=65)
        assert app.request(NS, "client", "server").endswith("hello")
        assert "serving the restored state" in app.ztunnel_log()
    finally:
        app.lab.kubectl("scale", "-n", SYSTEM, "deploy/istiod", "--replicas=1")
    app.ready()


def test_a_pod_waits_while_it_cannot_be_captured(app: Mesh) -> None:
    """With no ztunnel on the node, a new pod of the mesh is held back, and starts by itself afterwards."""
    away = {"spec": {"template": {"spec": {"nodeSelector": {"culvert.test/nowhere": "true"}}}}}
    app.lab.kubectl("patch", "ds/ztunnel", "-n", SYSTEM, "-p", json.dumps(away))
    try:
        eventually(
            lambda: app.lab.resource("pods", "-n", SYSTEM, "-l", ANY_ZTUNNEL)["items"] == [],
            "no ztunnel",
            within_s=60,
        )
        app.lab.kubectl("scale", "-n", NS, "deploy/client", "--replicas=0")
        app.lab.kubectl("scale", "-n", NS, "deploy/client", "--replicas=1")
        eventually(
            lambda: "no ztunnel is connected" in app.lab.kubectl("get", "events", "-n", NS, "-o", "yaml"),
            "the event says why the pod does not start",
            within_s=60,
        )
    finally:
        here = [{"op": "remove", "path": "/spec/template/spec/nodeSelector/culvert.test~1nowhere"}]
        app.lab.kubectl("patch", "ds/ztunnel", "-n", SYSTEM, "--type=json", "-p", json.dumps(here))
    app.ready()
    app.lab.rolled_out("client", namespace=NS)
    eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "the pod has started, captured")
    assert app.captured(NS, "client")
