"""Software on the node that captures, filters or configures what Culvert does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from meshkit.linux import nft
from nodeagent.capture.ebpf.trial import programs_of_others
from nodeagent.check.result import Level, Result

AREA: Final = "conflicts"
_DAEMONS: Final = {
    "firewalld": "it may flush rules on the host; the node agent restores the exemption of probes",
    "NetworkManager": "tell it to leave the pods' links alone: "
    "unmanaged-devices=interface-name:veth*;interface-name:cali*",
    "cilium-agent": "set socketLB.hostNamespaceOnly=true, so that services are resolved behind the capture, "
    "and cni.exclusive=false",
    "install-cni": "Istio's node agent captures the same pods; remove it",
    "linkerd-cni": "Linkerd's plugin captures pods of its namespaces; no pod may be of both meshes",
    "kmesh-daemon": "Kmesh's programs are on the same hooks; no pod may be of both meshes",
    "mbctl": "Merbridge's programs are on the same hooks; remove it",
    "beyla": "its programs follow sockets; they do not change where connections go",
}
"""Names of processes, with what to do."""
_FOREIGN_TABLES: Final = ("istio", "linkerd", "cilium", "kuma")


def check_processes(proc: Path) -> Iterator[Result]:
    """Look for daemons that are known to meddle."""
    running = set()
    for entry in proc.iterdir():
        with suppress(OSError):
            if entry.name.isdecimal():
                running.add((entry / "comm").read_text().strip())
    found = [(name, advice) for name, advice in _DAEMONS.items() if name[:15] in running]
    for name, advice in found:
        yield Result(AREA, name, Level.LIMIT, f"runs here: {advice}")
    if not found:
        yield Result(AREA, "daemons", Level.OK, "none that is known to meddle")


def check_rules(tables: Callable[[], frozenset[tuple[str, str]]] = nft.tables) -> Iterator[Result]:
    """Look for rules of other meshes in the host's nftables (those of iptables-nft are there too)."""
    try:
        names = sorted(name for _, name in tables() if name.lower().startswith(_FOREIGN_TABLES))
    except OSError as error:
        yield Result(AREA, "rules of other meshes", Level.LIMIT, f"nftables cannot be read: {error}")
        return
    if names:
        yield Result(AREA, "rules of other meshes", Level.LIMIT, f"nftables tables {', '.join(names)}")
    else:
        yield Result(AREA, "rules of other meshes", Level.OK, "none in nftables")


def check_hooks(cgroups: Sequence[Path]) -> Iterator[Result]:
    """Look for programs of others on the hooks of the backend ebpf."""
    try:
        others = programs_of_others(cgroups)
    except OSError as error:
        yield Result(AREA, "hooks", Level.LIMIT, f"the programs of cgroups cannot be read: {error}")
        return
    if others:
        text = f"programs of others see connections too, those of the deeper cgroup first: {', '.join(others)}"
        yield Result(AREA, "hooks", Level.LIMIT, text)
    else:
        yield Result(AREA, "hooks", Level.OK, "no program of others where ebpf is attached")
