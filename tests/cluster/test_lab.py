"""The lab is real Kubernetes, and leaves nothing behind."""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from meshkit.linux import cgroups, links, mounts, netns
from meshlab import lab, state
from meshlab.errors import LabError
from meshlab.machines.namespaces import NamespacesMachine
from meshlab.progress import Progress
from tests.support.lab import ROOT, Lab, eventually
from tests.support.manifests import WEB

pytestmark = pytest.mark.root

SAMPLES = ROOT / "samples"


def test_nodes_are_ready_and_in_zones_of_their_own(cluster: Lab) -> None:
    nodes = cluster.resource("nodes")["items"]
    zones = {item["metadata"]["labels"]["topology.kubernetes.io/zone"] for item in nodes}
    versions = {item["status"]["nodeInfo"]["kubeletVersion"] for item in nodes}
    assert len(nodes) == len(zones) == 2
    assert versions == {"v1.34.3"}
    assert {machine.name: machine.ready for machine in lab.status(cluster.name)} == {
        "control": None,
        "node1": True,
        "node2": True,
    }


def test_pods_on_two_nodes_reach_each_other_by_service_name(samples: Lab) -> None:
    samples.apply(WEB, SAMPLES / "curl" / "curl.yaml")
    samples.rolled_out("web", "curl")
    pods = samples.resource("pods", "-l", "app=web")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node1", "node2"}

    for pod in pods:
        assert "origin" in samples.run("curl", "curl", "-sS", "-m5", f"http://{pod['status']['podIP']}:8080/ip")
    eventually(
        lambda: "origin" in samples.run("curl", "curl", "-s", "-m5", "http://web/ip", check=False), "Service web"
    )
    client = samples.resource("pods", "-l", "app=curl")["items"][0]["status"]["podIP"]
    answer = json.loads(samples.run("curl", "curl", "-sS", "-m5", "http://web.default.svc.cluster.local/ip"))
    assert answer == {"origin": client}, "the source address of a pod must arrive"
    assert "/ip" in samples.kubectl("logs", "-l", "app=web")


def test_the_control_plane_reaches_services_as_webhooks_need(samples: Lab) -> None:
    samples.apply(WEB)
    samples.rolled_out("web")
    address = samples.resource("service", "web")["spec"]["clusterIP"]
    control = lab.machine(samples.name, "control")

    def request() -> str:
        return control.run(["curl", "-sS", "-m5", f"http://{address}/ip"]).text

    eventually(lambda: "origin" in request(), "Service web, once node1 knows it")
    answers = [request() for _ in range(10)]  # enough for both pods to answer some
    assert all("origin" in answer for answer in answers), answers


def test_names_outside_the_cluster_are_denied_at_once(samples: Lab) -> None:
    samples.apply(SAMPLES / "curl" / "curl.yaml")
    samples.rolled_out("curl")
    output = samples.run("curl", "sh", "-c", "curl -sS -m 2 http://nowhere.example/ 2>&1 || true")
    assert "Could not resolve host" in output


def test_bookinfo_shows_all_versions_of_reviews(samples: Lab) -> None:
    samples.apply(SAMPLES / "bookinfo/platform/kube/bookinfo.yaml", SAMPLES / "curl" / "curl.yaml")
    samples.rolled_out("productpage-v1", "details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3", "curl")
    seen: set[str] = set()

    def all_seen() -> bool:
        page = samples.run("curl", "curl", "-s", "-m5", "http://productpage:9080/productpage", check=False)
        if "Reviews served by" in page:
            seen.add("red" if 'data-color="red"' in page else "black" if 'data-color="black"' in page else "none")
        return seen == {"none", "black", "red"}

    eventually(all_seen, "reviews v1, v2 and v3", within_s=30)


def test_tcp_echo_answers_with_its_prefix(samples: Lab) -> None:
    samples.apply(SAMPLES / "tcp-echo" / "tcp-echo.yaml", SAMPLES / "curl" / "curl.yaml")
    samples.rolled_out("tcp-echo", "curl")
    command = "(echo world; sleep 1) | nc -w 3 tcp-echo 9001 || true"
    eventually(lambda: samples.run("curl", "sh", "-c", command) == "hello world\n", "tcp-echo", within_s=30)


@pytest.mark.parametrize(("machine", "port", "path"), [("control", 6443, "version"), ("node1", 10250, "pods")])
def test_anonymous_requests_are_refused(cluster: Lab, machine: str, port: int, path: str) -> None:
    record = lab.existing(cluster.name)
    address = next(plan.address for plan in record.plan.machines if plan.name == machine)
    context = ssl.create_default_context(cafile=str(state.folder(cluster.name) / "pki" / "ca.crt"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"https://{address}:{port}/{path}", context=context, timeout=5)
    assert refused.value.code == 401
    refused.value.close()


def test_a_node_may_not_write_another_nodes_objects(cluster: Lab) -> None:
    machine = lab.machine(cluster.name, "node1")
    assert isinstance(machine, NamespacesMachine)
    config = Path(f"/proc/{machine.pid}/root/etc/kubernetes/kubelet.conf")
    as_node1 = Lab(cluster.name, config)
    assert "node1" in as_node1.kubectl("get", "node", "node1")
    with pytest.raises(AssertionError, match="forbidden"):
        as_node1.kubectl("label", "node", "node2", "stolen=yes")
    with pytest.raises(AssertionError, match=r"[Ff]orbidden"):
        as_node1.kubectl("get", "secrets", "-A")


def test_up_again_does_nothing_and_other_options_are_refused(cluster: Lab) -> None:
    assert lab.up(cluster.name, nodes=2, dual_stack=False, progress=Progress()) is lab.Change.NOTHING
    with pytest.raises(LabError, match="other options"):
        lab.up(cluster.name, nodes=3, dual_stack=False, progress=Progress())


NODE_AGENT = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 0
      containers:
        - name: agent
          image: localhost/culvert/samples:1
          command: ["sleep", "infinity"]
          securityContext: {privileged: true, runAsUser: 0}
          volumeMounts:
            - {name: netns, mountPath: /var/run/netns, mountPropagation: HostToContainer}
            - {name: bpf, mountPath: /sys/fs/bpf}
            - {name: cgroup, mountPath: /host/cgroup}
            - {name: cni, mountPath: /host/cni}
      volumes:
        - {name: netns, hostPath: {path: /var/run/netns, type: DirectoryOrCreate}}
        - {name: bpf, hostPath: {path: /sys/fs/bpf}}
        - {name: cgroup, hostPath: {path: /sys/fs/cgroup}}
        - {name: cni, hostPath: {path: /opt/cni/bin}}
"""


def test_a_daemonset_with_the_nodes_rights_sees_this_node_only(samples: Lab) -> None:
    samples.apply(NODE_AGENT, WEB)
    samples.rolled_out("web")
    samples.kubectl("rollout", "status", "ds/agent", "--timeout=60s", timeout_s=65)
    agents = samples.resource("pods", "-l", "app=agent")["items"]
    assert len(agents) == 2
    for agent in agents:
        node, pod = agent["spec"]["nodeName"], agent["metadata"]["name"]

        def on_node(*command: str, pod: str = pod) -> str:
            return samples.kubectl("exec", pod, "--", *command)

        assert on_node("hostname").strip() == node
        commands = on_node("ps", "-eo", "args")
        assert commands.count("/kubelet --config") == 1, "the node's kubelet, and no other node's"
        assert "kube-apiserver" not in commands
        assert "cni-" in on_node("ls", "/var/run/netns"), "namespaces of pods that started before and after"
        assert "bpf_fs" in on_node("stat", "-f", "-c", "%T", "/sys/fs/bpf")
        assert "portmap" in on_node("ls", "/host/cni")
        assert "kubepods" in on_node("ls", "/host/cgroup/unified", "/host/cgroup")
        assert "198.18." in on_node("ip", "-4", "addr", "show", "eth0")


def test_down_leaves_the_machine_as_it_was() -> None:
    before = _machine_state()
    lab.up("test-gone", nodes=1, dual_stack=True, progress=Progress())
    cgroup = cgroups.processes("culvert-lab/test-gone")
    assert cgroup, "the lab's processes are in its cgroup"
    assert "198.18." not in _say("ip", "route", "get", "10.244.1.1"), "pods are not this computer's to route"
    _a_killed_node_takes_everything_with_it("test-gone")
    assert lab.down("test-gone", progress=Progress()) is lab.Change.MADE
    assert _left_over(before) == {}
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in cgroup), "processes collected by init")
    assert lab.down("test-gone", progress=Progress()) is lab.Change.NOTHING


def test_down_cleans_up_after_a_crash_half_way() -> None:
    before = _machine_state()
    command = [sys.executable, "-m", "meshctl", "lab", "up", "--name", "test-crash", "--nodes", "1"]
    crashing = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: "kube-apiserver" in _services("test-crash"), "API server started", within_s=60)
    crashing.kill()
    crashing.wait()
    with pytest.raises(LabError, match="did not come up"):
        lab.up("test-crash", nodes=1, dual_stack=False, progress=Progress())
    assert lab.down("test-crash", progress=Progress()) is lab.Change.MADE
    assert _left_over(before) == {}


def _a_killed_node_takes_everything_with_it(name: str) -> None:
    machine = lab.machine(name, "node1")
    assert isinstance(machine, NamespacesMachine)
    os.kill(machine.pid, signal.SIGKILL)
    eventually(lambda: not cgroups.processes(f"culvert-lab/{name}/node1"), "node1 is empty")
    assert cgroups.processes(f"culvert-lab/{name}/control")
    with pytest.raises(LabError, match=r"dead machines \(node1\)"):
        lab.up(name, nodes=1, dual_stack=True, progress=Progress())


def _services(name: str) -> str:
    return " ".join(path.stem for path in (state.folder(name) / "logs").glob("*.log"))


def _left_over(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what was added: other processes of this machine may remove things of their own meanwhile."""
    now = _machine_state()
    return {what: added for what, things in now.items() if (added := things - before[what])}


def _machine_state() -> dict[str, set[str]]:
    groups = [folder for each in cgroups.hierarchies() for folder in each.root.glob("culvert-lab/*")]
    return {
        "links": {link.name for link in links.links() if not _of_session_lab(link.name)},
        "routes": {str(route.destination) for route in links.routes() if not _in_session_lab(str(route))},
        "rules": set(_say("ip", "rule").splitlines()),
        "mounts": {str(each.target) for each in mounts.mounted() if not str(each.target).startswith("/run/netns/")},
        "cgroups": {str(group) for group in groups if group.name != "test" and group.is_dir()},
        "netns": {name for name in netns.names() if name.startswith("culvert.test-")},
        "forwarding": {Path("/proc/sys/net/ipv4/ip_forward").read_text()},
        "tables": set(_say("nft", "list", "tables").splitlines()),
        "folders": {entry.name for entry in state.root().iterdir() if entry.is_dir() and entry.name != "test"},
    }


def _of_session_lab(link: str) -> bool:
    record = state.load("test")
    return record is not None and (link == record.plan.bridge or link.startswith(f"{record.plan.bridge}m"))


def _in_session_lab(route: str) -> bool:
    record = state.load("test")
    return "fe80" in route or (
        record is not None and any(str(i.network) in route for i in record.plan.bridge_interfaces)
    )


def _say(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
