"""ztunnel as the process that users run, with a node agent's sockets of this process beside it.

The state of the mesh comes from a snapshot file: there is no control plane, so nothing else can.
"""

import asyncio
import contextlib
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from meshapi import names
from meshapi.identity import SpiffeId
from meshapi.proto import workload_pb2, zds_pb2
from meshkit.linux import netns
from meshkit.secrets.manager import SecretManager
from meshkit.secrets.request import Issued
from meshkit.xds import sds, serving
from meshproxy.snapshot import Snapshot
from nodeagent.zds.server import Served, ZdsServer
from tests.support import namespaced
from tests.support.authority import TestAuthority
from tests.support.lab import ROOT
from tests.support.ports import free_port
from tests.support.waiting import scaled, until
from ztunnel.xds import SNAPSHOT_TYPES

HERE = Path("/proc/self/ns/net")


class LocalIssuer:
    def __init__(self, authority: TestAuthority) -> None:
        self._authority = authority

    async def issue(self, identity: SpiffeId) -> Issued:
        now = datetime.now(UTC)
        chain, key = self._authority.issue(str(identity))
        return Issued(chain, key, self._authority.roots, now, now + timedelta(hours=1))


class Ztunnel:
    """One process."""

    def __init__(
        self, process: asyncio.subprocess.Process, readiness: int, metrics: int, log: Path, space: Path
    ) -> None:
        self._process = process
        self._space = space
        self._readiness = readiness
        self._metrics = metrics
        self._log = log

    async def ready(self, within_s: float = 20) -> None:
        try:
            async with asyncio.timeout(scaled(within_s)):
                while not await asyncio.to_thread(self._answers):
                    assert self._process.returncode is None, self.log
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not ready within {scaled(within_s)} s: {self.log}") from None

    def worker(self) -> int:
        """The process that serves, a child of the one that was started; 0: there is none."""
        pid = self._process.pid
        try:
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:  # it has ended itself
            return 0
        return int(found[0]) if found else 0

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, within_s: float = 30) -> int:
        return await asyncio.wait_for(self._process.wait(), scaled(within_s))

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def metric(self, series: str) -> float:
        """The value of a series as its page names it; 0 if it is not there."""
        page = netns.run(self._space, lambda: _get(self._metrics, "metrics", scaled(5)))
        lines = [line.rpartition(" ") for line in page.splitlines()]
        return next((float(value) for name, _, value in lines if name == series), 0.0)

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(netns.run(self._space, lambda: _get(self._readiness, "healthz/ready", scaled(2))))
        except (urllib.error.URLError, OSError):
            return False


def _get(port: int, path: str, within_s: float) -> str:
    """The page; empty where the status is an error."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=within_s) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return ""


class NodeSide:
    """What a node gives its ztunnels: workloads over ZDS, certificates over SDS, a folder for the snapshot."""

    def __init__(self, folder: Path, authority: TestAuthority, stack: contextlib.AsyncExitStack) -> None:
        self.folder = folder
        self.workloads: dict[str, Served] = {}
        self.zds = ZdsServer(folder / "zds.sock", self.workloads)
        self.started: list[Ztunnel] = []
        self._keeper = SecretManager(LocalIssuer(authority))
        self._stack = stack

    def serve(self, uid: str, name: str, namespace: Path) -> None:
        """Announce a workload to ztunnels that start from now on."""
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        info = zds_pb2.WorkloadInfo(name=name, namespace="shop", service_account=name)
        self.workloads[uid] = Served(info, descriptor)
        self.certify(SpiffeId("cluster.local", "shop", name))

    def certify(self, identity: SpiffeId) -> None:
        """Have a certificate of an identity at hand."""
        self._keeper.acquire(identity)

    def capture(self, pod: namespaced.Pod) -> None:
        """Put the rules into a pod and have ztunnels serve it."""
        pod.capture()
        pod.captured = True
        self.serve(pod.uid, pod.name, netns.path(pod.netns))

    async def announce(self, mesh: namespaced.Mesh, *pods: namespaced.Pod) -> None:
        """Announce pods to the mesh's engines, and to ztunnels in the snapshot that they start from."""
        for pod in pods:
            mesh.announce(pod)
        await self.write_state(*(pod.workload for pod in pods))

    async def write_state(self, *workloads: workload_pb2.Workload) -> None:
        snapshot = Snapshot(self.folder / "state.snapshot", SNAPSHOT_TYPES)
        resources = [(one.uid, "1", workload_pb2.Address(workload=one).SerializeToString()) for one in workloads]
        snapshot.note(names.ADDRESS_TYPE, resources, [])
        await snapshot.write()
        snapshot.close()

    async def start(self, space: Path = HERE, **settings: object) -> Ztunnel:
        """Start a process, in a network namespace of its own where given; see ``Ztunnel.ready``."""
        ports = [free_port() for _ in range(3)]
        given = {
            "node_name": "node-0",
            "xds_address": "127.0.0.1:1",
            "xds_root_ca": self.folder / "no-root.pem",
            "token_path": self.folder / "no-token",
            "zds_socket": self.folder / "zds.sock",
            "sds_socket": self.folder / "sds.sock",
            "snapshot_path": self.folder / "state.snapshot",
            "worker_threads": 1,
            "access_log": "off",
            "admin_port": ports[0],
            "metrics_port": ports[1],
            "readiness_port": ports[2],
        } | settings
        environment = os.environ | {name.upper(): str(value) for name, value in given.items()}
        log = self.folder / f"ztunnel-{len(self.started)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                "nsenter", f"--net={space}", sys.executable, "-c", "from ztunnel.app import main; main()",
                cwd=ROOT, env=environment, stdout=output, stderr=output,
            )  # fmt: skip
        started = Ztunnel(process, int(str(given["readiness_port"])), int(str(given["metrics_port"])), log, space)
        self.started.append(started)
        self._stack.push_async_callback(started.close)
        return started

    async def open(self) -> None:
        self._stack.push_async_callback(self._keeper.close)
        secrets = sds.SecretDiscovery(self._keeper)
        await self._stack.enter_async_context(serving.serve_unix(self.folder / "sds.sock", [secrets]))
        task = asyncio.create_task(self.zds.run())
        self._stack.push_async_callback(_end, task)
        await until((self.folder / "zds.sock").exists)


@contextlib.asynccontextmanager
async def node_side(folder: Path, authority: TestAuthority) -> AsyncIterator[NodeSide]:
    """A node's sockets; ztunnels that are left are killed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        made = NodeSide(folder, authority, stack)
        await made.open()
        yield made


@contextlib.asynccontextmanager
async def pair(folder: Path, port: int) -> AsyncIterator[tuple[NodeSide, namespaced.Pod, namespaced.Pod]]:
    """A node whose ztunnels serve a client, and a server of ``port`` on another one."""
    async with namespaced.mesh() as mesh, node_side(folder, mesh.authority) as node:
        server = await mesh.pod("server", node=1)
        client = await mesh.pod("client", captured=False)
        node.capture(client)
        await server.serve_peer(port)
        await node.announce(mesh, server, client)
        yield node, server, client


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
