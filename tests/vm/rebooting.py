"""A node with an enrolled pod under traffic, for the test that takes its power away and boots it again.

The node agent is the real one, between a Kubernetes of this process and an engine; so are the plugin of the container
runtime and what it reads: the node's configuration and binaries, on a disk that both boots have. The runtime itself is
played: it calls the plugin for each pod until it succeeds, and only then starts the pod's program. Everything that
crosses the network between the nodes is recorded. Run inside the machine: ``python -m tests.vm.rebooting FOLDER DISK
BOOT BACKEND``; the first boot never ends.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meshapi import names
from meshkit import kube
from meshkit.linux import netns
from nodeagent.app import NodeAgent
from nodeagent.capture.choice import Wanted, choose
from nodeagent.cni import chain
from nodeagent.settings import NodeAgentSettings
from tests.support import kubernetes_objects as objects
from tests.support import namespaced
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until
from ztunnel.workloads import Workloads
from ztunnel.zds import ZdsClient

SUBNET: Final = "10.77.0.0/24"
ENROLLED, OUTSIDE = "client", "outside"
"""A pod of the mesh, and one that is not."""
SECRETS: Final = {ENROLLED: "said-inside-the-mesh", OUTSIDE: "said-outside-of-the-mesh"}
ENOUGH: Final = 20
_PLUGIN: Final = Path("plugin")
_CONFIGURATION: Final = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}
_REFUSALS: Final = 2
_START_S: Final = 30.0
_PROGRAM: Final = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], 8080), 20) as one:
            one.sendall(sys.argv[2].encode())
            one.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: one.recv(1000), b""))
    except OSError as error:
        answer = type(error).__name__.encode()
    with open(sys.argv[3], "ab") as file:
        file.write(answer + b"\\n")
    time.sleep(0.05)
"""


@dataclass(frozen=True, slots=True)
class Left:
    """The files in which a boot says what has happened.

    Attributes:
        folder: of the exchange, as this side sees it.
        boot: 1 or 2.
    """

    folder: Path
    boot: int

    @property
    def link(self) -> Path:
        """Everything that crossed the network, as tcpdump writes it."""
        return self.folder / f"link-{self.boot}"

    @property
    def carried(self) -> Path:
        """Exists when the tunnel has carried a connection of the enrolled pod."""
        return self.folder / f"carried-{self.boot}"

    @property
    def held_back(self) -> Path:
        """What the runtime was told by the plugin before it succeeded, by pod."""
        return self.folder / f"held-back-{self.boot}"

    def log(self, pod: str) -> Path:
        """Each answer that a pod's program got, one a line."""
        return self.folder / f"answers-{pod}-{self.boot}"

    def answers(self, pod: str) -> int:
        """Return how often a pod's program was answered."""
        log = self.log(pod)
        return log.read_text().count(SECRETS[pod]) if log.exists() else 0

    @property
    def works(self) -> bool:
        """Both pods have traffic, and the enrolled one's is the tunnel's."""
        return self.carried.exists() and all(self.answers(pod) >= ENOUGH for pod in SECRETS)


class Node:
    """The node agent, the engine that it tells about pods, and what plays the runtime."""

    def __init__(self, left: Left, disk: Path, backend: str, mesh: namespaced.Mesh, kubernetes: FakeKubernetes) -> None:
        self._left = left
        self._backend = Wanted(backend)
        self._mesh = mesh
        self._kubernetes = kubernetes
        self._folder = Path("/run/node")
        self._folder.mkdir()
        self._bin, self._net = disk / "bin", disk / "net.d"
        self.held_back: dict[str, list[str]] = {pod: [] for pod in SECRETS}

    def install_network(self) -> None:
        """Do what is done once in a node's life, before the mesh comes."""
        self._bin.mkdir()
        self._net.mkdir()
        (self._net / "10-net.conflist").write_text(json.dumps(_CONFIGURATION))
        os.sync()

    async def run_agent(self) -> None:
        settings = NodeAgentSettings.model_validate(
            {"node_name": "node-1", "metrics_port": 15000, "health_port": 15099, "ca_address": "127.0.0.1:1",
             "ca_root": self._folder / "no-root.pem", "token_path": self._folder / "no-token",
             "crl_path": self._folder / "no-crl.pem", "cni_plugin": self._left.folder / _PLUGIN,
             "cni_bin_dir": self._bin, "cni_net_dir": self._net}
            | {f"{name}_socket": self._folder / f"{name}.sock" for name in ("zds", "sds", "cni")}
        )  # fmt: skip
        choice = choose(self._backend, self._folder / "lock", pins=settings.bpf_pins)
        async with kube.Client(kube.config.explicit(self._kubernetes.url)) as client:
            await NodeAgent(settings, client, choice).run(asyncio.Event())

    async def run_tunnel(self) -> None:
        """Serve what the agent says, in the engine of the mesh's first node."""
        node = self._mesh.nodes[0]
        workloads = Workloads(node.engine)
        node.started.append(workloads.started)
        await ZdsClient(self._folder / "zds.sock", workloads).run()

    async def run_pod(self, name: str, server: str) -> None:
        """Make a pod's sandbox as the runtime does, then run its program."""
        pod = await self._mesh.pod(name, captured=False)
        while (refusal := await self._plugins(pod)) is not None:
            self.held_back[name].append(refusal)
            await asyncio.sleep(1)  # the kubelet waits too
        if name == ENROLLED:
            pod.captured = True
            self._mesh.announce(pod)
        command = ["nsenter", f"--net={netns.path(pod.netns)}", sys.executable, "-c", _PROGRAM]
        process = await asyncio.create_subprocess_exec(*command, server, SECRETS[name], self._left.log(name))
        await process.wait()

    async def _plugins(self, pod: namespaced.Pod) -> str | None:
        """Call what the configuration names after the network's own plugin; return the text of a failure."""
        file = chain.primary(entry.name for entry in self._net.iterdir())
        assert file is not None
        config = json.loads((self._net / file).read_text())
        environment = {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": pod.name, "CNI_NETNS": str(netns.path(pod.netns)),
            "CNI_IFNAME": "eth0", "CNI_PATH": str(self._bin),
            "CNI_ARGS": f"K8S_POD_NAMESPACE={_namespace(pod.name)};K8S_POD_NAME={pod.name};K8S_POD_UID={pod.name}",
        }  # fmt: skip
        result = {"cniVersion": config["cniVersion"], "ips": [{"address": f"{pod.ip}/24"}]}
        for plugin in config["plugins"][1:]:
            given = plugin | {"cniVersion": config["cniVersion"], "name": config["name"], "prevResult": result}
            process = await asyncio.create_subprocess_exec(
                self._bin / plugin["type"], env=environment,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            output, _ = await process.communicate(json.dumps(given).encode())
            if process.returncode != 0:
                return output.decode()
        return None


def _namespace(pod: str) -> str:
    return "shop" if pod == ENROLLED else "plain"


async def main(left: Left, disk: Path, backend: str) -> None:
    """Run the node: for ever at the first boot, until its pods have traffic again at the second."""
    async with namespaced.mesh(SUBNET) as mesh, FakeKubernetes() as kubernetes, _recorded(mesh, left.link):
        _describe(kubernetes, is_captured=left.boot > 1)
        server = await mesh.pod("server", node=1)
        await server.serve_peer(8080)
        node = Node(left, disk, backend, mesh, kubernetes)
        async with asyncio.TaskGroup() as group:

            def start(*parts: Coroutine[Any, Any, None]) -> None:
                tasks.extend(group.create_task(part) for part in parts)

            tasks: list[asyncio.Task[None]] = []
            pods = [node.run_pod(pod, server.ip) for pod in SECRETS]
            if left.boot == 1:
                node.install_network()
                start(node.run_agent(), node.run_tunnel())
                await until(lambda: _is_chained(disk), within_s=_START_S)
                start(*pods)
            else:  # the runtime is back before the agent
                start(*pods)
                await until(lambda: all(len(one) >= _REFUSALS for one in node.held_back.values()), within_s=_START_S)
                start(node.run_agent(), node.run_tunnel())
            await server.node.logged(_START_S, direction="inbound", src__workload=ENROLLED, src__identity=_identity())
            left.carried.touch()
            left.held_back.write_text(json.dumps(node.held_back))
            if left.boot == 1:
                await asyncio.Event().wait()
            await until(lambda: left.works, within_s=_START_S)
            for task in tasks:
                task.cancel()


def _identity() -> str:
    return f"spiffe://cluster.local/ns/shop/sa/{ENROLLED}"


def _is_chained(disk: Path) -> bool:
    return any(chain.is_chained(file.read_text()) for file in (disk / "net.d").glob("*.conflist"))


def _describe(kubernetes: FakeKubernetes, *, is_captured: bool) -> None:
    """Say what Kubernetes knows, which is elsewhere and remembers the pod's annotation."""
    for name, labels in (("shop", {"istio.io/dataplane-mode": "ambient"}), ("plain", {})):
        kubernetes.put("namespaces", {"metadata": {"name": name, "labels": labels}})
    for name in SECRETS:
        pod: dict[str, Any] = objects.pod(
            name, _namespace(name), uid=name, ip="", account=name, captured=is_captured and name == ENROLLED
        )
        kubernetes.put("pods", pod | {"status": {}})
    kubernetes.put("daemonsets", {"metadata": {"name": names.NODE_AGENT_DAEMON_SET}}, names.DEFAULT_NAMESPACE)


@asynccontextmanager
async def _recorded(mesh: namespaced.Mesh, file: Path) -> AsyncIterator[None]:
    """Record what crosses the bridge; each packet is written when it comes, so that a cut loses none."""
    tcpdump = shutil.which("tcpdump") or "/usr/bin/tcpdump"
    options = ["-i", mesh.bridge, "-U", "-s", "0", "--immediate-mode", "-Z", "root", "-w", str(file)]
    command = ["nsenter", f"--net={mesh.space}", tcpdump, *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    said = await process.stderr.readline()
    assert b"listening on" in said, said
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main(Left(Path(sys.argv[1]), int(sys.argv[3])), Path(sys.argv[2]), sys.argv[4]))
