"""Two control planes: both serve, one writes; the one that writes is killed and nothing is lost."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshapi import names
from tests.support.lab import Lab, eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "leader"
LATE_NS = "leader-late"
TAKEOVER_S = 15 + 2 * 2.2 + 1
"""A lease's duration, at most two waits between attempts, and a second for the API."""
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all}
spec:
  action: DENY
  rules: [{}]
"""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Iterator[Mesh]:
    mesh.namespace(NS, enrolled=True)
    mesh.lab.kubectl("delete", "namespace", LATE_NS, "--ignore-not-found", "--wait", timeout_s=120)
    mesh.echo(NS, "server", "node1")
    mesh.client(NS, "client", "node2")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    mesh.lab.kubectl("scale", "-n", SYSTEM, "deploy/istiod", "--replicas=2")
    mesh.lab.rolled_out("istiod", namespace=SYSTEM, timeout_s=90)
    try:
        yield mesh
    finally:
        mesh.lab.kubectl("scale", "-n", SYSTEM, "deploy/istiod", "--replicas=1")
        mesh.lab.kubectl("delete", "namespace", LATE_NS, "--ignore-not-found", "--wait=false")
        mesh.ready()


def leader(lab: Lab) -> str:
    """Return the leader's identity: its pod's name and a suffix for the process."""
    lease = lab.resource("lease", "-n", SYSTEM, names.CONTROL_PLANE_LEASE)
    return str(lease["spec"].get("holderIdentity", ""))


def process_of(pod: dict[str, Any]) -> int:
    """Return the control plane's process of a pod, as this machine numbers it."""
    uid = pod["metadata"]["uid"]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            groups, command = (folder / "cgroup").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if (uid in groups or uid.replace("-", "_") in groups) and b"culvert-controlplane" in command:
            return int(folder.name)
    raise AssertionError(f"pod {pod['metadata']['name']} runs no control plane")


def is_taken(lab: Lab, policy: str) -> bool:
    """Apply a policy; returns whether the API server has taken it: while it asks a dead replica, it refuses."""
    try:
        lab.apply(policy, namespace=NS)
    except AssertionError as error:
        assert "failed calling webhook" in str(error), error
        return False
    return True


def test_the_leader_is_killed_and_no_change_is_lost(app: Mesh) -> None:
    eventually(lambda: leader(app.lab) != "", "a leader is elected")
    killed_leader = leader(app.lab)
    dead = killed_leader.partition("_")[0]
    pods = app.lab.resource("pods", "-n", SYSTEM, "-l", "app=istiod")["items"]
    (victim,) = [pod for pod in pods if pod["metadata"]["name"] == dead]
    assert "proxy connected" in app.lab.kubectl("logs", "-n", SYSTEM, dead), "it is one that proxies are connected to"
    os.kill(process_of(victim), signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: is_taken(app.lab, DENY), "the API server asks the replica that is left about the object")
    app.lab.kubectl("create", "namespace", LATE_NS)

    eventually(lambda: not app.request(NS, "client", "server").endswith("hello"), "the change reaches the proxies")
    changed = time.monotonic() - killed
    # Another process: the other pod's or the killed pod's new one, whichever tries first after the lease has expired.
    eventually(lambda: leader(app.lab) not in ("", killed_leader), "another leads", within_s=TAKEOVER_S + 5)
    led = time.monotonic() - killed
    roots = ("configmap", "-n", LATE_NS, names.ROOT_CERT_CONFIGMAP, "--ignore-not-found", "-o", "name")
    eventually(lambda: app.lab.kubectl("get", *roots) != "", "the new leader writes what was missed", within_s=5)
    print(f"leader killed: change in force after {changed:.1f} s, another leads after {led:.1f} s")
    assert led < TAKEOVER_S

    app.lab.kubectl("delete", "authorizationpolicy", "-n", NS, "deny-all")
    eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "and so do later changes")
