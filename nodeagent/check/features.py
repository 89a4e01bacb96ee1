"""The kernel's features, one by one, each tried in a namespace made for it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshkit.linux import egress, links, marks, netns, sysctl
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.guard import Guard
from nodeagent.capture.kernel import first_line
from nodeagent.capture.plan import REPLIES
from nodeagent.check.result import Level, Result

AREA = "kernel"
_REPLY_SETTINGS = ("net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect")


def check(pins: Path, cgroup: Path | None) -> Iterator[Result]:
    """Try every feature.

    Args:
        pins: a folder in a BPF file system that is used, and removed.
        cgroup: of the unified hierarchy; ``None`` where there is none.
    """
    yield _try("routing by mark", Level.FAULT, "capture is impossible", _route)
    yield _try("guard", Level.LIMIT, "pods are captured without a guard", lambda: netns.scratch(Guard().probe))
    only_ebpf = "the backend ebpf is impossible"
    cookies = _try("namespace cookies (Linux 5.14)", Level.LIMIT, only_ebpf, lambda: netns.scratch(netns.cookie))
    yield cookies
    yield _try("marks of answers", Level.LIMIT, only_ebpf, _settings)
    if cookies.level is not Level.OK:
        return  # what else is missing there says nothing
    if cgroup is None:
        yield Result(AREA, "cgroup hooks", Level.LIMIT, f"no unified cgroup hierarchy; {only_ebpf}")
        return
    try:
        node = EbpfNode(pins, cgroup)
    except OSError as error:
        yield Result(AREA, "cgroup hooks and socket storage", Level.LIMIT, f"{error}; {only_ebpf}")
        return
    try:
        yield Result(AREA, "cgroup hooks and socket storage", Level.OK)
        yield _try("sk_lookup", Level.LIMIT, only_ebpf, lambda: netns.scratch(lambda: _inbound(node)))
        yield _try("programs on links", Level.LIMIT, only_ebpf, lambda: netns.scratch(lambda: _links(node)))
        yield _try(
            "listeners found later",
            Level.LIMIT,
            "after a change of the backend to ebpf, restart ztunnel",
            lambda: netns.scratch(lambda: _adopt(node)),
        )
    finally:
        node.uninstall()


def _try(name: str, level: Level, consequence: str, work: Callable[[], object]) -> Result:
    try:
        work()
    except OSError as error:
        return Result(AREA, name, level, f"{first_line(error)}; {consequence}")
    return Result(AREA, name, Level.OK)


def _route() -> None:
    def add() -> None:
        links.set_up("lo")
        marks.add(REPLIES)

    netns.scratch(add)


def _settings() -> None:
    def write() -> None:
        for setting in _REPLY_SETTINGS:
            sysctl.write(setting, "1")

    netns.scratch(write)


@contextmanager
def _here() -> Iterator[tuple[int, int]]:
    """Give cookie and descriptor of the calling thread's namespace."""
    space = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield netns.cookie(), space
    finally:
        os.close(space)


def _inbound(node: EbpfNode) -> None:
    with _here() as (cookie, space):
        node.attach_pod(cookie, space)
        node.remove(cookie)


def _links(node: EbpfNode) -> None:
    with _here() as (cookie, _), egress.programs("culvert-check") as programs:
        made = node.link_programs(cookie)
        try:
            programs.attach("lo", made[0])
        finally:
            for program in made:
                os.close(program)


def _adopt(node: EbpfNode) -> None:
    with _here() as (cookie, _):
        node.try_adoption(cookie)
