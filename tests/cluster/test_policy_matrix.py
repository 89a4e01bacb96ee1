"""Every policy of ``policy_matrix.yaml``, with every backend, on one node and across nodes, over IPv4 and IPv6.

A lab of its own, with both families. A client's process runs in its pod and reads its targets from one ``kubectl
exec`` that stays open, so that one round takes as long as its slowest connection.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshapi import names
from meshkit.linux import egress, netns
from meshlab import images
from nodeagent.capture.iptables.legacy import LegacyTables
from nodeagent.capture.iptables.pod import IptablesCapture
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.discovery import namespaces
from tests.support.backends import sandbox
from tests.support.lab import Lab, eventually, install, running
from tests.support.mesh import PROGRAMS, SYSTEM, Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

LAB = os.environ.get("CULVERT_MATRIX_LAB", "test-matrix")
SCENARIOS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("policy_matrix.yaml").read_text())[
    "scenarios"
]
CLIENTS = {"friend": "matrix", "neighbour": "matrix", "other": "matrix-other", "stranger": "matrix-out"}
SERVERS = ("server", "bystander")
BACKENDS = ("nftables", "iptables", "ebpf")
NODES = ("node1", "node2")
PORTS = (9000, 9001, 9002)
MARKERS = range(9100, 9100 + len(SCENARIOS))
"""A port for each scenario, denied by a policy that is applied with it: when that policy is in force, all are."""
REROLL_S = 120

Target = tuple[str, int]
Question = tuple[str, str, str, int]
"""Client, server, address, port."""


@dataclass
class Client:
    """A client's process in its pod."""

    name: str
    process: subprocess.Popen[str]

    def request(self, targets: list[Target]) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(targets) + "\n")
        self.process.stdin.flush()
        answers: list[str] = json.loads(self.process.stdout.readline())
        return answers


class Matrix:
    """The pods of all scenarios."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab = lab
        self.mesh = Mesh(lab)
        self._captures: dict[str, Callable[[int], bool]] = {
            "nftables": lambda space: NftablesCapture().present(sandbox(space)),
            "iptables": lambda space: IptablesCapture(LegacyTables(), versions=(4, 6)).present(sandbox(space)),
            "ebpf": _has_programs,
        }
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._namespace, sorted(set(CLIENTS.values()))))
        self._make_pods()
        self.addresses = self._wait_for_pods()
        self.clients = [
            Client(name, stack.enter_context(self._client(f"{name}-{node}", CLIENTS[name])))
            for name, node in itertools.product(CLIENTS, NODES)
        ]
        self._pool = stack.enter_context(ThreadPoolExecutor(len(self.clients)))

    def _namespace(self, name: str) -> None:
        self.mesh.namespace(name, enrolled=name != "matrix-out")

    def _make_pods(self) -> None:
        program = {"matrix.py": (PROGRAMS / "matrix.py").read_text()}
        pods = [(name, namespace, node) for name, namespace in CLIENTS.items() for node in NODES]
        pods += [(name, "matrix", "node1") for name in SERVERS]
        items = [_object("ConfigMap", "program", namespace, data=program) for namespace in set(CLIENTS.values())]
        items += [
            _object("ServiceAccount", name, ns) for name, ns in (*CLIENTS.items(), *((s, "matrix") for s in SERVERS))
        ]
        items += [_pod(name, namespace, node) for name, namespace, node in pods]
        self.lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def _wait_for_pods(self) -> dict[str, list[str]]:
        """Return the addresses of all pods by the name of their application."""
        found: dict[str, list[str]] = {}

        def look() -> bool:
            found.clear()
            for namespace in set(CLIENTS.values()):
                for pod in self.lab.resource("pods", "-n", namespace)["items"]:
                    addresses = [entry["ip"] for entry in pod["status"].get("podIPs", [])]
                    captured = names.REDIRECTION_ANNOTATION in pod["metadata"].get("annotations", {})
                    if len(addresses) != 2 or captured is (namespace == "matrix-out"):
                        return False
                    found.setdefault(pod["metadata"]["labels"]["app"], []).extend(addresses)
            return True

        eventually(look, "all pods have two addresses, and those of the mesh are captured", within_s=60)
        return found

    def _client(self, pod: str, namespace: str) -> subprocess.Popen[str]:
        program = shutil.which("kubectl") or str(Path(sys.executable).with_name("kubectl"))
        command = [program, f"--kubeconfig={self.lab.kubeconfig}", "exec", "-i", "-n", namespace, pod, "--"]
        eventually(lambda: self._running(pod, namespace), f"{pod} runs", within_s=30)
        return subprocess.Popen(
            [*command, "python3", "/program/matrix.py", "request"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _running(self, pod: str, namespace: str) -> bool:
        phase = self.lab.kubectl("get", "pod", pod, "-n", namespace, "-o", "jsonpath={.status.phase}")
        return phase == "Running"

    def answers(self, ports: tuple[int, ...]) -> dict[tuple[str, str, str, int], str]:
        """Let every client try every server at all addresses; returns the results."""
        targets = [
            (server, address, port) for server in SERVERS for address in self.addresses[server] for port in ports
        ]
        results = self._pool.map(lambda client: client.request([(ip, port) for _, ip, port in targets]), self.clients)
        return {
            (f"{client.name} on {node}", server, ip, port): answer
            for client, node, answers in zip(self.clients, itertools.cycle(NODES), results, strict=False)
            for (server, ip, port), answer in zip(targets, answers, strict=True)
        }

    def holds(self, scenario: dict[str, Any], marker: int) -> list[str]:
        """Compare with the scenario's expectations; returns the differences."""
        expected = _expected(scenario["allowed"])
        wrong = []
        for (client, server, ip, port), answer in self.answers((*PORTS, marker)).items():
            name = client.partition(" ")[0]
            wanted = "allowed" if (name, server, port) in expected else "refused"
            if answer != wanted:
                wrong.append(f"{client} -> {server} ({ip}) port {port}: {answer}, not {wanted}")
        return wrong

    def captured_by(self) -> set[str]:
        """The backends that have rules in pods of the mesh; a pod with rules of none, or of two, is listed as such."""
        items = [pod for ns in set(CLIENTS.values()) for pod in self.lab.resource("pods", "-n", ns)["items"]]
        uids = {pod["metadata"]["uid"] for pod in items if pod["metadata"]["namespace"] != "matrix-out"}
        found = set()
        for descriptor in namespaces.find(uids).values():
            found.add("+".join(name for name in BACKENDS if self._captures[name](descriptor)))
            os.close(descriptor)
        return found

    def backend(self, name: str) -> None:
        """Switch to this backend; the pods keep running."""
        if name != BACKENDS[0]:
            install(self.lab, backend=name)
        self.mesh.ready(REROLL_S)
        for pod in self.lab.resource("pods", "-n", SYSTEM, "-l", f"app={names.NODE_AGENT_DAEMON_SET}")["items"]:
            if not pod["metadata"].get("deletionTimestamp"):
                log = self.lab.kubectl("logs", "-n", SYSTEM, pod["metadata"]["name"])
                assert f'backend="{name}"' in log, log[:300]


def _has_programs(space: int) -> bool:
    """Whether a namespace has the programs of the backend ebpf; its plans are out of sight, in the machines."""

    def look() -> bool:
        with egress.programs("culvert-flows", priority=2) as programs:
            return bool(programs.attached)

    return netns.run(space, look)


def _object(kind: str, name: str, namespace: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **more}


def _pod(app: str, namespace: str, node: str) -> dict[str, Any]:
    serve = ["serve", *map(str, (*PORTS, *MARKERS))]
    command = ["python3", "/program/matrix.py", *serve] if app in SERVERS else ["sleep", "infinity"]
    container = {
        "name": "main", "image": images.SAMPLES, "command": command,
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }  # fmt: skip
    spec = {
        "nodeName": node, "serviceAccountName": app, "terminationGracePeriodSeconds": 0, "containers": [container],
        "volumes": [{"name": "program", "configMap": {"name": "program"}}],
    }  # fmt: skip
    pod = _object("Pod", f"{app}-{node}", namespace, spec=spec)
    pod["metadata"]["labels"] = {"app": app}
    return pod


def _policy(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the resource of one entry of a scenario's policies."""
    namespace = entry.get("namespace", "matrix")
    if "mtls" in entry or "ports" in entry:
        kind, selector = "PeerAuthentication", entry.get("peers")
        spec = {"mtls": {"mode": entry["mtls"]}} if "mtls" in entry else {}
        spec |= {"portLevelMtls": entry["ports"]} if "ports" in entry else {}
    else:
        kind = "AuthorizationPolicy"
        action = next((action for action in ("allow", "deny") if action in entry), "")
        selector = entry.get(action)
        spec = entry["spec"] if "spec" in entry else {"action": action.upper()}
        spec |= {"rules": entry["rules"]} if "rules" in entry else {}
    spec |= {"selector": {"matchLabels": selector}} if selector else {}
    made = _object(kind, f"matrix-{number}", namespace, spec=spec)
    return made | {"apiVersion": "security.istio.io/v1"}


def _marker(port: int) -> dict[str, Any]:
    return {"deny": {}, "rules": [{"to": [{"operation": {"ports": [str(port)]}}]}]}


@cache
def _expected_line(line: str) -> frozenset[tuple[str, str, int]]:
    clients, _, rest = line.partition(" -> ")
    servers, _, ports = rest.partition(":")
    return frozenset(
        itertools.product(
            CLIENTS if clients == "*" else [name.strip() for name in clients.split(",")],
            SERVERS if servers == "*" else [name.strip() for name in servers.split(",")],
            map(int, ports.split(",")) if ports else PORTS,
        )
    )


def _expected(lines: list[str]) -> frozenset[tuple[str, str, int]]:
    return frozenset().union(*map(_expected_line, lines))


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    with ExitStack() as stack:
        lab = stack.enter_context(running(LAB, nodes=2, dual_stack=True, extra=[images.samples]))
        install(lab, backend=BACKENDS[0])
        made = Matrix(lab, stack)
        yield made
        for client in made.clients:
            client.process.kill()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_policy_has_the_same_verdicts_on_all_nodes_and_families(matrix: Matrix, backend: str) -> None:
    matrix.backend(backend)
    # Rules that have captured connections stay until these have ended, and the next comparison (every 30 s) finds that.
    alone = "every pod has rules of this backend and of no other"
    eventually(lambda: matrix.captured_by() == {backend}, alone, within_s=60)
    failures = []
    for marker, scenario in zip(MARKERS, SCENARIOS, strict=True):
        text = json.dumps([*scenario.get("policies", []), _marker(marker)])
        for app, addresses in matrix.addresses.items():
            text = text.replace(f'["${app}"]', json.dumps(addresses))
        items = [_policy(number, entry) for number, entry in enumerate(json.loads(text))]
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        matrix.lab.kubectl("apply", "-f", "-", stdin=listed)
        wrong: list[str] = []

        def as_expected(scenario=scenario, marker=marker, wrong=wrong) -> bool:
            wrong[:] = matrix.holds(scenario, marker)
            return not wrong

        try:
            eventually(as_expected, scenario["name"], within_s=10)
            wrong[:] = matrix.holds(scenario, marker)  # and it stays so
        except AssertionError:
            pass
        failures += [f"{scenario['name']}: {line}" for line in wrong]
        matrix.lab.kubectl("delete", "-f", "-", stdin=listed)
    assert not failures, "\n".join(failures)
