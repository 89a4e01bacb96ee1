"""A lab on machines that exist already, reached by SSH.

Here they are namespaces of this computer, each with an SSH server and a home folder of its own, so that what the lab
copies to a machine is really copied. Machines with kernels of their own (``vagrant/``) differ in that only.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from meshlab import images, lab, state
from meshlab.errors import ComponentFailed
from meshlab.machines import namespaces
from meshlab.machines.machine import File, Service
from meshlab.machines.namespaces import NamespacesMachine
from meshlab.progress import Progress
from tests.support.lab import Lab, eventually
from tests.support.manifests import WEB

pytestmark = pytest.mark.root

NAME = "test-on-hosts"
BELOW = "test-hosts"
SERVER = Service("ssh", ("/usr/sbin/dropbear", "-F", "-E", "-R", "-s"))


@contextmanager
def agent(folder: Path) -> Iterator[str]:
    """Hold a new key in an agent for the time of the block; yields the public half."""
    key, socket = folder / "key", folder / "agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen(["ssh-agent", "-D", "-a", socket]) as process:
        patch.setenv("SSH_AUTH_SOCK", str(socket))
        try:
            eventually(socket.exists, "the agent listens")
            subprocess.run(["ssh-add", "-q", key], check=True)
            yield key.with_suffix(".pub").read_text()
        finally:
            process.terminate()


@contextmanager
def machines(public_key: str) -> Iterator[list[NamespacesMachine]]:
    record = state.begin(BELOW, nodes=2, dual_stack=False)
    plan = record.plan
    try:
        namespaces.connect(plan)
        booted = [namespaces.boot(plan, node, state=state.folder(BELOW)) for node in plan.nodes]
        for machine in booted:
            _give_home(machine, Path.home(), public_key)
            for other in plan.nodes:  # the lab on top makes routes of its own; to services, a real host's default leads
                for network in other.pods:
                    machine.run(["ip", "route", "delete", str(network)])
            machine.start(SERVER)
        yield booted
    finally:
        namespaces.destroy(BELOW, plan.bridge, [machine.name for machine in plan.machines])
        state.forget(BELOW)


def _give_home(machine: NamespacesMachine, home: Path, public_key: str) -> None:
    """Hide the home folder, and the cache in it, behind an empty one that lets the key in."""
    done = machine.run(
        ["sh", "-c", f"mount -t tmpfs -o mode=0700 none {home} && mkdir -m 0700 {home}/.ssh /etc/dropbear"]
    )
    assert done.status == 0, done.text
    machine.write([File(f"{home}/.ssh/authorized_keys", public_key.encode(), 0o600)])


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NamespacesMachine]]:
    with ExitStack() as stack:
        yield stack.enter_context(machines(stack.enter_context(agent(tmp_path_factory.mktemp("ssh")))))


def test_a_machine_that_has_kubernetes_is_refused_and_left_alone(hosts: list[NamespacesMachine]) -> None:
    theirs = "/etc/kubernetes/admin.conf"
    hosts[1].write([File(theirs, b"another cluster's")])
    addresses = [str(machine.plan.address) for machine in hosts]
    with pytest.raises(ComponentFailed, match=r"node2 .*: Kubernetes is there already"):
        lab.up(NAME, nodes=2, dual_stack=False, progress=Progress(), on_hosts=addresses)
    lab.down(NAME, progress=Progress())
    assert hosts[1].run(["cat", theirs]).text == "another cluster's"
    hosts[1].run(["rm", theirs])


def test_kubernetes_runs_across_hosts_and_goes_without_a_trace(hosts: list[NamespacesMachine]) -> None:
    before = [left_on(machine) for machine in hosts]
    addresses = [str(machine.plan.address) for machine in hosts]
    bring_up = partial(lab.up, NAME, nodes=2, dual_stack=False, progress=Progress(), on_hosts=addresses)
    try:
        assert bring_up() is lab.Change.MADE
        assert bring_up() is lab.Change.NOTHING
        on_hosts = Lab(NAME, state.kubeconfig(NAME))
        services = {machine.name: set(machine.services or {}) for machine in lab.status(NAME)}
        assert services["node1"] == services["node2"] == {"containerd", "kubelet", "kube-proxy"}
        assert "kube-apiserver" in services["control"]
        assert "node2-kubelet" in lab.logs(NAME)
        _pods_reach_each_other(on_hosts)
    finally:
        lab.down(NAME, progress=Progress())
    assert [left_on(machine) for machine in hosts] == before


def _pods_reach_each_other(on_hosts: Lab) -> None:
    lab.load_images(NAME, [images.samples(Progress().say)])
    on_hosts.apply(WEB)
    on_hosts.rolled_out("web")
    pods = on_hosts.resource("pods", "-l", "app=web")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node1", "node2"}
    for client, server in (pods, reversed(pods)):
        fetch = f"import urllib.request as u; print(u.urlopen('http://{server['status']['podIP']}:8080/ip').read().decode())"
        answer = on_hosts.kubectl("exec", client["metadata"]["name"], "--", "python3", "-c", fetch)
        assert json.loads(answer)["origin"] == client["status"]["podIP"]


def left_on(machine: NamespacesMachine) -> str:
    """What a lab could leave on a machine: processes, files, routes, tables, namespaces, mounts."""
    look = (
        "ps -e -o comm= | grep -E 'kube|etcd|containerd'; nft list tables | grep kube-proxy; ip route; ip netns list; "
        "find /etc/kubernetes /etc/cni/net.d /var/lib/etcd /var/lib/kubelet /run/culvert-lab -type f 2>/dev/null; "
        "grep -E '(kubelet|containerd)/' /proc/mounts"
    )
    return machine.run(["sh", "-c", look]).text
