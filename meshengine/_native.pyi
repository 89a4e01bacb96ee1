"""The compiled engine. Messages are those of ``meshapi/proto/engine.proto``, serialized.

The engine runs threads of its own; none of them ever touches the interpreter. All methods are synchronous and short,
may be called from any thread, release the interpreter lock while they work, and raise ``EngineClosed`` after ``close``
(``RuntimeError`` in a forked child).
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, final

__all__ = [
    "Capture",
    "CaptureRules",
    "ConfigRejected",
    "Egress",
    "Engine",
    "EngineBusy",
    "EngineClosed",
    "EngineError",
    "GuardDrops",
    "KernelUnsupported",
    "RejectedResource",
    "load_guard",
    "programs_at",
]

class EngineError(Exception):
    """Root of what the engine raises; ``args[0]`` is one sentence for a person."""

@final
class RejectedResource:
    """A resource that was refused.

    Attributes:
        name: as the control plane calls it.
        field: the field at fault; may be empty.
        reason: what is wrong with it.
    """

    @property
    def name(self) -> str: ...
    @property
    def field(self) -> str: ...
    @property
    def reason(self) -> str: ...

class ConfigRejected(EngineError):
    """Some resources were refused; the others are in force, and of the refused ones the last good version is.

    Attributes:
        type_url: type of the resources.
        rejected: each with its reason.
    """

    type_url: str
    rejected: list[RejectedResource]

class KernelUnsupported(EngineError):
    """The kernel lacks something that the engine cannot do without."""

class EngineBusy(EngineError):
    """A queue is full, or the process has no descriptor left; try again."""

class EngineClosed(EngineError):
    """The engine has been closed."""

def load_guard(
    *,
    tunnel_mark: int,
    tunnel_mark_mask: int,
    passed_mark: int,
    redirect_ports: tuple[int, int],
    preexisting: Sequence[tuple[str, int, str, int, bool]],
) -> int:
    """Load the guard program, which drops outgoing TCP that has not passed the capture rules (``bpf/guard.bpf.c``).

    Args:
        tunnel_mark: mark of the tunnel's packets.
        tunnel_mark_mask: bits of that mark that are compared.
        passed_mark: bits of which the capture rules set at least one on packets that they pass.
        redirect_ports: ports on which the tunnel accepts redirected connections: outbound, inbound. The tunnel's
            traffic from other local ports is not filtered.
        preexisting: connections that are exempt because they were established earlier: address and port in the pod,
            address and port of the peer, and whether the handshake is complete.

    Returns:
        A descriptor of the program (``BPF_PROG_TYPE_SCHED_CLS``), which the caller closes.

    Raises:
        ValueError: an address is malformed.
        KernelUnsupported: the kernel lacks a feature, or the process lacks a capability.
    """

def programs_at(cgroup: str | PathLike[str]) -> list[tuple[str, str]]:
    """Return the programs of everybody on the capture's hooks of a cgroup, parents left out: hook and name of each.

    Raises:
        KernelUnsupported: the kernel does not say; it needs CAP_NET_ADMIN.
    """

@final
class GuardDrops:
    """Sums up what guard programs have dropped. Each of its methods may be called from any thread.

    A program is counted from the first ``add`` on, with everything that it has dropped before; when it exists no
    longer, what it has dropped stays in the sums.
    """

    def __new__(cls) -> GuardDrops: ...
    def add(self, program_id: int) -> None:
        """Add a program by the kernel's id; one that was added before costs nothing.

        Raises:
            KernelUnsupported: loaded programs cannot be read; it needs CAP_SYS_ADMIN.
        """

    def totals(self) -> list[tuple[str, int]]:
        """Return the number of dropped packets by reason; every reason is there.

        ``unreadable``: the application's, and no TCP header can be found. ``unmarked``: the application's, and the
        capture rules have not passed it. ``untranslated``: the tunnel's, and the capture rules have not translated its
        addresses.

        Raises:
            KernelUnsupported: as ``add``.
        """

@final
class Egress:
    """Default deny for what leaves pods (``bpf/egress.bpf.c``): its programs, and the maps that they share.

    The maps are pinned and stay when the process ends. Each method may be called from any thread, and raises
    ``KernelUnsupported`` with the kernel's reason.
    """

    def __new__(cls, folder: str | PathLike[str], *, tunnel_mark: tuple[int, int]) -> Egress:
        """Load the maps, those of an earlier process if there are any.

        Args:
            folder: where they are pinned, in a BPF file system; made if missing.
            tunnel_mark: mark of the tunnel's sockets, and the bits of it that are compared.
        """

    def add_tunnel(self, cgroup: int) -> None:
        """Let the sockets of a cgroup (by the inode number of its folder in the unified hierarchy) be the tunnel's."""

    def load(
        self,
        *,
        netns: int,
        on_link: Sequence[tuple[str, int]],
        accepted: Sequence[tuple[str, int, str, int, bool]],
    ) -> tuple[int, int, int]:
        """Load the programs of a pod.

        Args:
            netns: inode number of its namespace.
            on_link: IPv6 ranges that are reached without a router, by address and length of the prefix. Neighbour
                discovery may go there; the first eight count.
            accepted: connections that peers have begun earlier and that may be answered, as for ``load_guard``.

        Returns:
            Descriptors, which the caller closes: for what leaves by a link, for what arrives, and for what arrives at
            the other end of a link, in the host's namespace.

        Raises:
            ValueError: an address is malformed.
        """

    def drops(self) -> list[tuple[str, int]]:
        """Return the number of dropped packets of all pods by reason (``enum egress_drop``); every reason is there."""

@final
class CaptureRules:
    """What the capture's BPF programs are told of one pod; names are those of ``bpf/include/capture.h``."""

    def __new__(
        cls,
        *,
        flags: Sequence[str],
        addresses: Sequence[str],
        excluded_links: Sequence[int],
        ports: Sequence[tuple[int, str]],
        ranges: Sequence[tuple[str, int, Sequence[str]]],
    ) -> CaptureRules:
        """Make rules.

        Args:
            flags: names of ``enum pod_flag`` without prefix, in lower case.
            addresses: the pod's, by which its tunnel is reached; the first of each version counts.
            excluded_links: indices of links whose traffic is left alone; the first eight count.
            ports: each with its list (``enum port_list``).
            ranges: address, length of the prefix, and flags (``enum range_flag``). The longest range that has an
                address decides.

        Raises:
            ValueError: a name or an address is not known.
        """

@final
class Capture:
    """Capture by BPF on one node. All methods raise ``KernelUnsupported`` with the kernel's reason.

    What is attached, and the plans, stay when the process ends. Namespaces are named by cookie (``SO_NETNS_COOKIE``).
    """

    def __new__(
        cls,
        folder: str | PathLike[str],
        *,
        tunnel_mark: tuple[int, int],
        reply_mark: tuple[int, int],
        outbound_port: int,
        inbound_port: int,
        hbone_port: int,
        dns_port: int,
        direct_limit: int = 0,
    ) -> Capture:
        """Load the programs, with the maps of an earlier process if there are any. Nothing is attached.

        Args:
            folder: where maps and links are pinned, in a BPF file system; made if missing.
            tunnel_mark: mark of the tunnel's sockets, and the bits of it that are compared.
            reply_mark: mark by which the application's answers are routed to the tunnel, and the bits of it.
            outbound_port: where the tunnel accepts captured connections of the pod.
            inbound_port: where it accepts captured connections to the pod.
            hbone_port: where it accepts tunnels of peers.
            dns_port: where it answers DNS, on loopback.
            direct_limit: connections at a time that pods of this node may have without the tunnel, as far as an engine
                allows them (``Engine.attach_direct``); 0: none.
        """

    def attach(self, cgroup: str | PathLike[str]) -> None:
        """Attach the hooks to the cgroup (folder of the unified hierarchy) of the node's pods.

        Those that are there are replaced, each in one step.
        """

    def detach(self) -> None:
        """Detach the hooks from that cgroup; plans stay."""

    def attach_tunnel(self, cgroup: str | PathLike[str]) -> None:
        """Attach the tunnel's hooks to its cgroup; those of tunnels that have gone are removed."""

    def missing(self, cgroup: str | PathLike[str]) -> list[str]:
        """Return the names of hooks that the cgroup lacks."""

    def attach_pod(self, cookie: int, netns_fd: int) -> None:
        """Attach the program for connections from outside to a namespace, or replace the one that is there."""

    def adopt_listener(self, cookie: int) -> bool:
        """Find the tunnel's listener that is older than the hooks, in the calling thread's namespace.

        Returns:
            Whether a listener is known now.
        """

    def has_pod(self, cookie: int, netns_fd: int) -> bool:
        """Return whether a namespace has that program."""

    def set_plan(self, cookie: int, rules: CaptureRules) -> None:
        """Bring the rules of a namespace into force at once; after an error the earlier ones are in force."""

    def is_plan(self, cookie: int, rules: CaptureRules) -> bool:
        """Return whether a namespace has exactly these rules."""

    def has_plan(self, cookie: int) -> bool:
        """Return whether a namespace has rules."""

    def remove_pod(self, cookie: int) -> bool:
        """Detach from a namespace and remove its rules; return whether it had any."""

    def prune(self) -> list[int]:
        """Remove what is left of namespaces that have gone, and return their cookies."""

    def link_programs(self, cookie: int) -> tuple[int, int, int, int]:
        """Load the programs for a namespace's links (``bpf/flows.bpf.c``).

        Returns:
            Descriptors, which the caller closes: for what leaves by the loopback link, for what arrives there, for what
            arrives by every other link, and for what leaves by it: the guard, from which no connection is exempt.
        """

    def guard_program(self, cookie: int, preexisting: Sequence[tuple[str, int, str, int, bool]]) -> int:
        """Load the guard alone; ``preexisting`` and the result as for ``load_guard``."""

    def files(self, cookie: int) -> list[Path]:
        """Return files that change when hooks, or those of a namespace, are removed."""

    def counts(self) -> list[tuple[str, int]]:
        """Return what the programs have counted since the maps were made (``enum capture_count``)."""

    def uninstall(self) -> None:
        """Detach everything, remove the folder; every later call raises ``ValueError``.

        What is attached to the links of pods is the caller's.
        """

@final
class Engine:
    """The tunnel of one node. A context manager: leaving the block closes it."""

    def __new__(cls, config: bytes) -> Engine:
        """Start the engine's threads.

        Args:
            config: an ``EngineConfig``.

        Raises:
            ValueError: the message cannot be read.
            KernelUnsupported: no thread, event loop or eventfd to be had.
        """

    def event_fd(self) -> int:
        """Descriptor that is readable when ``drain_events`` has something; the engine's, do not close it."""

    def drain_events(self) -> bytes:
        """Take all events that wait; never blocks. Returns an ``EventBatch``."""

    def apply(self, type_url: str, upserts: Sequence[tuple[str, bytes]], removes: Sequence[str]) -> None:
        """Take over changes of one type of resource; in force for every connection that starts after the call.

        Open connections that policy denies now are closed right after it.

        Args:
            type_url: ``istio.workload.Address``, ``istio.security.Authorization`` or ``istio.mesh.v1alpha1.MeshConfig``
                (full type URL).
            upserts: pairs of resource name and serialized message.
            removes: names of resources that are gone; unknown ones are ignored.

        Raises:
            ConfigRejected: names what was refused; the rest is in force all the same.
        """

    def authorize(
        self,
        workload_uid: str,
        source_identity: str | None,
        source_ip: str,
        destination_ip: str,
        destination_port: int,
    ) -> bytes:
        """Evaluate policy for a connection at this moment, without making one.

        The code that authorizes real connections evaluates it. For an operator ("why is this refused?") and for tests.

        Args:
            workload_uid: the workload that would be called, as the control plane calls it.
            source_identity: SPIFFE URI of the caller; ``None`` for plain text.
            source_ip: the caller's address.
            destination_ip: address of the application.
            destination_port: port of the application, not of a service.

        Returns: a ``Verdict``.

        Raises:
            ValueError: an address is none.
            ConfigRejected: no workload has this uid, or ``source_identity`` is none.
        """

    def set_trust_bundle(self, roots: bytes) -> None:
        """Take over the roots that peers of all identities are verified with, PEM.

        In force for every handshake that ends after the call; tunnels whose peers none of the roots vouches for are
        closed at once.

        Raises:
            ConfigRejected: there is no root, or one that cannot be used; the present roots stay.
        """

    def set_revocation_lists(self, lists: bytes) -> None:
        """Take over the revocation lists of all issuers, PEM; empty where there are none.

        In force for every handshake that ends after the call; tunnels whose peer they revoke are closed at once.

        Raises:
            ConfigRejected: one of them cannot be used; the present lists stay.
        """

    def set_certificate(self, identity: str, chain: bytes, private_key: bytes) -> None:
        """Take over an identity's certificate chain (leaf first) and key (PKCS#8), PEM.

        It is used as soon as there is a trust bundle, and with each later one. An identity that no workload here has is
        ignored.

        Raises:
            ConfigRejected: one of them cannot be used; a certificate that is held and valid stays.
        """

    def certificate_unavailable(self, identity: str, reason: str) -> None:
        """Note why an identity has no certificate; one that is held and valid stays.

        Raises:
            ConfigRejected: ``identity`` is none.
        """

    def add_workload(self, workload: bytes, netns_fd: int) -> None:
        """Serve a workload in a network namespace; a ``WorkloadStarted`` event follows when its listeners are open.

        The same workload in the same namespace again is accepted and changes nothing. The descriptor is duplicated:
        keep it open during the call, and close your own.

        Args:
            workload: a ``WorkloadRef``.
            netns_fd: descriptor of the workload's network namespace.

        Raises:
            ValueError: the message cannot be read, or ``netns_fd`` is no descriptor.
            ConfigRejected: namespace and service account make no identity.
            EngineBusy: a worker's queue is full.
        """

    def remove_workload(self, uid: str) -> None:
        """Stop serving a workload; open streams go on to their end, bounded by settings.

        A ``WorkloadStopped`` event follows when the last has ended.

        Raises:
            EngineBusy: a worker's queue is full.
        """

    def attach_direct(self, folder: str | PathLike[str]) -> None:
        """Let pods of this node connect without the tunnel, and decide which may.

        To be called when all workloads have been added: what an earlier engine has allowed is decided again before this
        returns. Without the setting, and where it has been done already, this does nothing.

        Args:
            folder: where the node agent has pinned the maps of its programs (``Capture``), as this process sees it.

        Raises:
            KernelUnsupported: there are no such maps, or they cannot be used.
        """

    def drain(self, timeout_s: float) -> None:
        """Take no new connections; open ones go on for at most ``timeout_s`` seconds.

        Raises:
            EngineBusy: a worker's queue is full.
        """

    def connections(self) -> int:
        """Number of open connections."""

    def held(self) -> int:
        """Number of listeners and accepted connections that are open, tunnels of peers included.

        0 some time after ``drain`` says that nothing is left to wait for: what was queued has been accepted and served.
        """

    def metrics(self) -> bytes:
        """All counters. Returns ``MetricFamilies``."""

    def dump(self, section: Literal["workloads", "services", "policies", "certificates", "workloadState"]) -> str:
        """One section of the configuration dump as JSON.

        Args:
            section: which.

        Raises:
            ValueError: no such section.
        """

    def close(self) -> None:
        """Stop everything at once and join the threads. Calling it again does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
