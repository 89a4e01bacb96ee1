"""Two pods on a bridge, in network namespaces of their own; nothing here touches the machine's own network."""

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from meshkit.linux import links, netns
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import Sandbox
from nodeagent.discovery.enrolment import PodInfo

END_S = 5.0
_SETTINGS = {
    # A client that connects thousands of times a second must not run out of ports: that would measure the clock.
    "net/ipv4/ip_local_port_range": "16384 65535",
    "net/ipv4/tcp_tw_reuse": "1",
}


@dataclass(frozen=True)
class Pod:
    """A network namespace with an address."""

    name: str
    ip: str
    netns: str
    idle: bool = False
    """Whether its programs get the processor last, as those of a pod with the least CPU weight."""

    @property
    def identity(self) -> str:
        return f"spiffe://cluster.local/ns/bench/sa/{self.name}"

    @property
    def netns_path(self) -> Path:
        return netns.path(self.netns)

    def capture(self) -> None:
        """Put the node agent's rules in place."""
        descriptor = os.open(self.netns_path, os.O_RDONLY)
        try:
            pod = PodInfo(
                self.name, "bench", self.name, self.name, {}, {}, (self.ip,), host_network=False, terminal=False
            )
            sandbox = Sandbox(pod, descriptor)
            backend = NftablesCapture()
            backend.prepare(sandbox)
            backend.apply(sandbox, PodPlan())
        finally:
            os.close(descriptor)

    async def run(self, stack: AsyncExitStack, *command: str) -> Process:
        """Start a program inside the pod; it ends with the stack."""
        idle = ("chrt", "--idle", "0") if self.idle else ()
        process = await start(stack, *idle, "nsenter", f"--net={self.netns_path}", "--", *command)
        if self.idle:
            _weigh_least(process.pid)
        return process


def _weigh_least(pid: int) -> None:
    # Where the scheduler makes a group of each session, it weighs groups against each other, whatever is in them.
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():
        group.write_text("19")


async def start(stack: AsyncExitStack, *command: str) -> Process:
    """Start a program with pipes; it ends with the stack, and a Ctrl-C for us is not one for it."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
    stack.push_async_callback(end, process)
    return process


async def ready(process: Process, within_s: float = 15.0) -> None:
    """Wait for a program's first line."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), within_s)
    if not line:
        raise RuntimeError(f"a program ended before it was ready, with {await process.wait()}; see its words above")


async def end(process: Process) -> None:
    """Terminate a program; kill it if it does not exit in time."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        process.kill()
        await process.wait()


class Bridge:
    """Where pods are connected to."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._prefix = f"cb{os.getpid()}"
        self._pods = 0
        self._netns = self._make("net")
        netns.run(netns.path(self._netns), lambda: links.add_bridge("bridge"))

    def _make(self, name: str) -> str:
        space = f"{self._prefix}{name}"
        netns.create(space)
        self._stack.callback(netns.delete, space)
        return space

    def pod(self, name: str) -> Pod:
        """Make a pod."""
        self._pods += 1
        address = ip_interface(f"10.78.0.{self._pods + 9}/24")
        pod = Pod(name, str(address.ip), self._make(f"p{self._pods}"))
        port = f"port{self._pods}"
        netns.run(
            netns.path(self._netns),
            lambda: links.add_veth(port, master="bridge", peer="eth0", peer_netns=pod.netns_path),
        )

        def configure() -> None:
            links.add_address("eth0", address)
            links.set_up("eth0")
            links.set_up("lo")
            for setting, value in _SETTINGS.items():
                Path("/proc/sys", setting).write_text(value)

        netns.run(pod.netns_path, configure)
        return pod
