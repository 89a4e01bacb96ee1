"""How a refused call fails, against the table of what a client of Istio's ambient mode sees (``failure_kinds.yaml``).

Clients, retry policies and dashboards treat a failed connect differently from a connection that ends.
``CULVERT_CALLS=1000`` makes a thousand calls of each kind instead of 25.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.authority import TestAuthority
from tests.support.lab import eventually
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
NS, OUTSIDE = "kinds", "kinds-outside"
CALLS = int(os.environ.get("CULVERT_CALLS", "25"))
ROWS: list[dict[str, str]] = yaml.safe_load((HERE / "failure_kinds.yaml").read_text())
SERVERS = {"near": "node1", "far": "node2"}
PORTS = {"tcp": 9000, "http": 9080, "https": 9443}
ENDS = {"ok": {"ok"}, "refused": {"eof", "reset"}}
DENY: dict[str, dict[str, Any] | None] = {
    "none": None,
    "principal": {"from": [{"source": {"principals": [f"cluster.local/ns/{NS}/sa/client"]}}]},
    "namespace": {"from": [{"source": {"namespaces": [NS]}}]},
    "port": {"to": [{"operation": {"ports": [str(port) for port in PORTS.values()]}}]},
}


def workload(name: str, node: str, command: list[str]) -> Iterator[dict[str, Any]]:
    labels = {"app": name}
    container = {
        "name": "main", "image": "localhost/culvert/samples:1", "command": command,
        "volumeMounts": [{"name": "kinds", "mountPath": "/kinds"}],
    }  # fmt: skip
    spec = {
        "serviceAccountName": name, "nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container],
        "volumes": [{"name": "kinds", "configMap": {"name": "kinds"}}],
    }  # fmt: skip
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    yield {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }  # fmt: skip
    if name in SERVERS:
        ports = [{"name": f"tcp-{kind}", "port": port} for kind, port in PORTS.items()]
        yield {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": ports},
        }  # fmt: skip


@pytest.fixture(scope="module")
def scene(mesh: Mesh) -> Iterator[Mesh]:
    mesh.namespace(NS, enrolled=True)
    mesh.namespace(OUTSIDE)
    chain, key = (text.decode() for text in TestAuthority().issue(f"spiffe://cluster.local/ns/{NS}/sa/near"))
    files = {"kinds.py": (HERE / "programs" / "kinds.py").read_text(), "chain.pem": chain, "key.pem": key}
    program = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kinds"}, "data": files}
    serve = ["python3", "/kinds/kinds.py", "serve", "/kinds/chain.pem", "/kinds/key.pem"]
    wait = ["sleep", "infinity"]
    inside = [program, *workload("near", SERVERS["near"], serve), *workload("far", SERVERS["far"], serve)]
    mesh.lab.apply(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": [*inside, *workload("client", "node1", wait)]}),
        namespace=NS,
    )
    outside = [program, *workload("client", "node1", wait)]
    mesh.lab.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": outside}), namespace=OUTSIDE)
    mesh.lab.rolled_out("near", "far", "client", namespace=NS)
    mesh.lab.rolled_out("client", namespace=OUTSIDE)
    for name in ("near", "far", "client"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
    yield mesh
    for namespace in (NS, OUTSIDE):
        mesh.lab.kubectl("delete", "namespace", namespace, "--wait=false")


def call(scene: Mesh, client: str, number: int) -> dict[str, dict[str, int]]:
    namespace = NS if client == "captured" else OUTSIDE
    hosts = [f"{name}.{NS}.svc.cluster.local" for name in SERVERS]
    command = scene.command(namespace, "client", "python3", "/kinds/kinds.py", "call", str(number), *hosts)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    assert len(found) == len(SERVERS) * len(PORTS)
    return found


def configure(scene: Mesh, mode: str, deny: str) -> None:
    peer = {
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "mode"},
        "spec": {"mtls": {"mode": mode}},
    }  # fmt: skip
    items: list[dict[str, Any]] = [peer]
    scene.lab.kubectl("delete", "authorizationpolicy", "-n", NS, "--all")
    rule = DENY[deny]
    if rule is not None:
        # Servers only: a policy without a selector would hold for the client's own pod too.
        items += [
            {
                "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name},
                "spec": {"selector": {"matchLabels": {"app": name}}, "action": "DENY", "rules": [rule]},
            }
            for name in SERVERS
        ]  # fmt: skip
    scene.lab.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), namespace=NS)


def test_the_table_of_failures_has_every_case_once() -> None:
    cases = [(row["client"], row["mode"], row["deny"]) for row in ROWS]
    assert sorted(cases) == sorted(itertools.product(("captured", "uncaptured"), ("PERMISSIVE", "STRICT"), DENY))


@pytest.mark.parametrize(("mode", "deny"), list(itertools.product(("STRICT", "PERMISSIVE"), DENY)))
def test_calls_fail_as_in_istios_ambient_mode(scene: Mesh, mode: str, deny: str) -> None:
    configure(scene, mode, deny)
    for row in ROWS:
        if (row["mode"], row["deny"]) != (mode, deny):
            continue
        expected = ENDS[row["outcome"]]
        # In force on both nodes: no call has another outcome; what the kind is, the calls after it say.
        eventually(
            lambda row=row: all(
                ("ok" in found) == (row["outcome"] == "ok") for found in call(scene, row["client"], 2).values()
            ),
            f"{row} is in force",
        )
        found = call(scene, row["client"], CALLS)
        wrong = {case: ends for case, ends in found.items() if not set(ends) <= expected or sum(ends.values()) != CALLS}
        print(f"{row}: {found}")
        assert wrong == {}, row
