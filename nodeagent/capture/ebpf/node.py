"""The BPF programs of one node: those at its cgroups, and the plans of its pods.

They stay attached when the process ends (``culvert_bpf::pins``); the next one replaces them one by one and goes on with
the plans.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from meshapi import names
from meshengine.bpf import Capture, CaptureRules, KernelUnsupported
from meshkit.linux.sockets import Connection
from nodeagent.capture.ebpf.rules import PodRules
from nodeagent.capture.kernel import refusals


class EbpfNode:
    """Thread-safe. Everything raises ``OSError``, with the kernel's reason."""

    def __init__(self, pins: Path, cgroup: Path, *, direct_limit: int = 0) -> None:
        """Load the programs; nothing is attached.

        Args:
            pins: folder in a BPF file system; no other agent may use it.
            cgroup: folder of the unified hierarchy that has the node's pods.
            direct_limit: connections at a time that pods may have without the tunnel; 0: none.

        Raises:
            OSError: the folder is in no BPF file system, or the kernel lacks a feature.
        """
        self._cgroup = cgroup
        self._counts: dict[str, int] = {}
        with refusals():
            self._capture = Capture(
                pins,
                tunnel_mark=(names.TUNNEL_MARK, names.TUNNEL_MARK_MASK),
                reply_mark=(names.REPLY_CONNMARK, names.REPLY_CONNMARK_MASK),
                outbound_port=names.OUTBOUND_PORT,
                inbound_port=names.INBOUND_PLAINTEXT_PORT,
                hbone_port=names.HBONE_PORT,
                dns_port=names.DNS_PORT,
                direct_limit=direct_limit,
            )

    def attach(self) -> None:
        """Attach the hooks to the node's cgroup, and forget pods that have ended meanwhile."""
        with refusals():
            self._capture.attach(self._cgroup)
            self._capture.prune()

    def detach(self) -> None:
        """Detach the hooks from the node's cgroup; plans stay, without effect on what connects."""
        with refusals():
            self._capture.detach()

    def attach_tunnel(self, cgroup: Path) -> None:
        """Attach the tunnel's hooks to its cgroup: before it opens its listeners."""
        with refusals():
            self._capture.attach_tunnel(cgroup)

    def prune(self) -> list[int]:
        """Remove what is left of namespaces that have gone, and return their cookies."""
        with refusals():
            return self._capture.prune()

    def missing(self) -> tuple[str, ...]:
        """Return the names of hooks that the node's cgroup lacks."""
        with refusals():
            return tuple(f"hook {name}" for name in self._capture.missing(self._cgroup))

    def is_planned(self, cookie: int, rules: PodRules) -> bool:
        """Return whether a namespace has exactly these rules."""
        with refusals():
            return self._capture.is_plan(cookie, _packed(rules))

    def has_plan(self, cookie: int) -> bool:
        """Return whether a namespace has rules."""
        with refusals():
            return self._capture.has_plan(cookie)

    def plan(self, cookie: int, rules: PodRules) -> None:
        """Bring rules into force."""
        with refusals():
            self._capture.set_plan(cookie, _packed(rules))

    def attach_pod(self, cookie: int, space: int) -> None:
        """Attach the program for connections from outside to a namespace, or replace the one that is there."""
        with refusals():
            self._capture.attach_pod(cookie, space)

    def adopt_listener(self, cookie: int) -> bool:
        """Find the tunnel's listener that is older than the hooks, in the calling thread's namespace.

        Returns:
            Whether a listener is known now; false where the kernel has no way to find one.
        """
        try:
            return self._capture.adopt_listener(cookie)
        except KernelUnsupported:
            return False

    def try_adoption(self, cookie: int) -> None:
        """Do the same, to learn whether the kernel has a way.

        Raises:
            OSError: it has none.
        """
        with refusals():
            self._capture.adopt_listener(cookie)

    def is_attached(self, cookie: int, space: int) -> bool:
        """Return whether a namespace has the program for connections from outside."""
        with refusals():
            return self._capture.has_pod(cookie, space)

    def remove(self, cookie: int) -> bool:
        """Detach from a namespace and remove its rules; return whether it had any."""
        with refusals():
            return self._capture.remove_pod(cookie)

    def link_programs(self, cookie: int) -> tuple[int, int, int, int]:
        """Load programs: loopback leaving, arriving; other links arriving, leaving (guard). The caller closes them."""
        with refusals():
            return self._capture.link_programs(cookie)

    def guard_program(self, cookie: int, preexisting: Iterable[Connection] = ()) -> int:
        """Load the guard alone, with exempt connections; the caller closes the descriptor."""
        with refusals():
            return self._capture.guard_program(cookie, [(*one.local, *one.remote, one.open) for one in preexisting])

    def files(self, cookie: int) -> tuple[Path, ...]:
        """Return files that change when hooks, or those of a namespace, are removed."""
        with refusals():
            return tuple(self._capture.files(cookie))

    def counts(self) -> dict[str, int]:
        """Return what the programs have counted; the last counts that could be read."""
        with suppress(KernelUnsupported, ValueError):  # after the uninstallation
            self._counts = dict(self._capture.counts())
        return self._counts

    def uninstall(self) -> None:
        """Detach everything and remove the folder of pins; the object is of no use after it."""
        with refusals():
            self._capture.uninstall()


def _packed(rules: PodRules) -> CaptureRules:
    return CaptureRules(
        flags=list(rules.flags),
        addresses=[str(address) for address in rules.addresses],
        excluded_links=list(rules.excluded_links),
        ports=list(rules.ports),
        ranges=[(str(network.network_address), network.prefixlen, list(flags)) for network, flags in rules.ranges],
    )
