"""Which backend this node uses: found out by trying, in a namespace made for the question."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from meshkit.linux import changes, ipsets, links, netns, nft
from meshkit.linux.changes import Changes
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.ebpf import trial
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.places import Places, find
from nodeagent.capture.egress_filter import EgressFilter
from nodeagent.capture.guard import Guard
from nodeagent.capture.iptables import legacy, restore, rules
from nodeagent.capture.iptables.legacy import LegacyTables
from nodeagent.capture.iptables.pod import IptablesCapture
from nodeagent.capture.iptables.probes import IptablesProbes
from nodeagent.capture.iptables.restore import RestoredTables
from nodeagent.capture.iptables.tables import HOST_HOOKS, POD_HOOKS, Tables
from nodeagent.capture.kernel import first_line
from nodeagent.capture.nftables import rules as nftables_rules
from nodeagent.capture.nftables.pod import NftablesCapture
from nodeagent.capture.nftables.probes import NftablesProbes
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod_network import PodNetwork


class Wanted(StrEnum):
    """Values of the setting ``capture_backend``."""

    AUTO = "auto"
    EBPF = "ebpf"
    NFTABLES = "nftables"
    IPTABLES = "iptables"


@dataclass(frozen=True, slots=True)
class Ebpf:
    """Capture by BPF on this node.

    Attributes:
        node: its programs.
        places: where they are attached and kept.
    """

    node: EbpfNode
    places: Places

    def greet(self, pid: int) -> None:
        """Attach the tunnel's hooks to the cgroup of a ztunnel: before it opens listeners.

        Raises:
            OSError: it would not learn where captured connections go.
        """
        self.node.attach_tunnel(self.places.of_process(pid))


@dataclass(frozen=True, slots=True)
class Retired:
    """Stands for the probes of capture by BPF where an earlier agent has used it; removing them removes its hooks."""

    node: EbpfNode

    def apply(self, host: Path, addresses: Set[str], before: Set[str] | None) -> None:
        """Do nothing: never used to exempt."""

    def remove(self, host: Path) -> None:  # noqa: ARG002
        """Remove hooks and pins of an earlier agent."""
        self.node.uninstall()

    def missing(self, host: Path, addresses: Set[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def watch(self, host: Path) -> Changes:
        """Subscribe as the other backends do."""
        return netns.run(host, changes.watch)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found.

    Attributes:
        backend: to use.
        others: that work here too, so that an earlier life of the agent may have used them.
        why: for the log.
        guard: of the pods.
        unguarded: why captured pods have no guard; nothing where they have.
        egress: of what leaves pods that may reach only what the registry knows; none without a folder for it.
        ebpf: programs and places of capture by BPF, where that is the backend.
    """

    backend: CaptureBackend
    others: tuple[CaptureBackend, ...]
    why: str
    guard: Guard
    unguarded: str = ""
    egress: EgressFilter | None = None
    ebpf: Ebpf | None = None


class NoBackend(OSError):
    """No requested backend works on this node; the text says what is missing."""


def choose(
    wanted: Wanted,
    lock: Path,
    *,
    guard: bool = True,
    pins: Path | None = None,
    direct_limit: int = 0,
    host: Path | None = None,
) -> Choice:
    """Try what there is; takes some hundred milliseconds.

    Args:
        wanted: the setting.
        lock: of the host's iptables tables.
        guard: whether pods get the guard program, where the kernel supports it.
        pins: folder for the programs of capture by BPF; without one, it is not tried. That of the egress filter is
            beside it.
        direct_limit: connections at a time that pods may have without the tunnel, where BPF captures; 0: none.
        host: the host's network namespace, where the egress filter is at the other ends of pods' links, too.

    Raises:
        NoBackend: names what is missing and the fix.
    """
    guards = Guard()
    unguarded = _unguarded(guards) if guard else "as set"
    egress = None if pins is None else EgressFilter(pins.with_name(f"{pins.name}-egress"), host)
    around = PodNetwork(guards, guarded=not unguarded, egress=egress)
    trials = try_rules(lock, around)
    lost = ""
    if wanted is Wanted.EBPF or (wanted is Wanted.AUTO and pins is not None):
        try:
            asked = wanted is Wanted.EBPF
            return _by_bpf(pins, trials, around, asked=asked, unguarded=unguarded, direct_limit=direct_limit)
        except NoBackend as error:
            if wanted is Wanted.EBPF:
                raise NoBackend(f"capture_backend {error}") from error
            lost = str(error)
    chosen, why = trials.choose(wanted, lost)
    others = tuple(backend for backend in trials.all if backend is not chosen)
    return Choice(chosen, (*others, *_retired(pins, guards)), why, guards, unguarded, egress)


@dataclass(frozen=True, slots=True)
class Trials:
    """What the trials of the backends with rules have shown.

    Attributes:
        found: those that work, the better first.
        failures: why others do not.
    """

    found: Mapping[Wanted, list[CaptureBackend]]
    failures: Mapping[Wanted, list[str]]

    @property
    def all(self) -> tuple[CaptureBackend, ...]:
        """All that work."""
        return tuple(backend for backends in self.found.values() for backend in backends)

    def choose(self, wanted: Wanted, lost: str = "") -> tuple[CaptureBackend, str]:
        """Return the backend with rules for a setting, and why.

        Args:
            wanted: the setting.
            lost: why BPF does not capture.

        Raises:
            NoBackend: none works.
        """
        order = [Wanted.NFTABLES, Wanted.IPTABLES] if wanted is Wanted.AUTO else [wanted]
        chosen = next((self.found[kind][0] for kind in order if self.found[kind]), None)
        if chosen is None:
            reasons = "; ".join(filter(None, (lost, *(text for kind in order for text in self.failures[kind]))))
            raise NoBackend(f"capture_backend {wanted}: {reasons}")
        if wanted is not Wanted.AUTO:
            return chosen, "as set"
        better = (lost, "; ".join(self.failures[Wanted.NFTABLES]))
        return chosen, "; ".join(filter(None, better)) or "preferred"


def try_rules(lock: Path, around: PodNetwork) -> Trials:
    """Try the backends with rules.

    Args:
        lock: of the host's iptables tables.
        around: what pods get besides rules.
    """
    makers: dict[Wanted, list[Callable[[], CaptureBackend]]] = {
        Wanted.NFTABLES: [partial(_nftables, around)],
        Wanted.IPTABLES: [partial(_legacy, lock, around), partial(_restored, lock, around)],
    }
    trials = Trials({kind: [] for kind in makers}, {kind: [] for kind in makers})
    for kind, candidates in makers.items():
        for make in candidates:
            try:
                trials.found[kind].append(netns.scratch(make))
            except OSError as error:
                trials.failures[kind].append(str(error))
    return trials


def _by_bpf(
    pins: Path | None, trials: Trials, around: PodNetwork, *, asked: bool, unguarded: str, direct_limit: int
) -> Choice:
    """Choose capture by BPF. Probes are exempt by rules on the host, by those of the first other backend that works."""
    if pins is None:
        raise NoBackend("ebpf: no folder for its programs is set")
    rules = trials.all
    if not rules:
        failures = "; ".join(text for texts in trials.failures.values() for text in texts)
        raise NoBackend(f"ebpf: probes are exempt by nftables or iptables, and {failures}")
    try:
        places = find(pins)
        node, pods = trial.make(places, around, other=rules[0].pods, direct_limit=direct_limit)
        if not asked:
            trial.check_unasked(places, node)
        node.attach()
    except OSError as error:
        raise NoBackend(f"ebpf: {first_line(error)}") from error
    backend = CaptureBackend(pods, rules[0].probes)
    why = "as set" if asked else "preferred"
    return Choice(backend, rules, why, around.guard, unguarded, around.egress, Ebpf(node, places))


def _retired(pins: Path | None, guard: Guard) -> tuple[CaptureBackend, ...]:
    """Return capture by BPF as an earlier agent has left it, if one has."""
    try:
        if pins is None or not pins.exists():
            return ()
        node, pods = trial.make(find(pins), PodNetwork(guard, guarded=False), other=None)
    except OSError:
        return ()  # neither this agent nor an earlier one can have been there
    return (CaptureBackend(pods, Retired(node)),)


def _unguarded(guard: Guard) -> str:
    try:
        netns.scratch(guard.probe)
    except OSError as error:
        return first_line(error)
    return ""


def _nftables(around: PodNetwork) -> CaptureBackend:
    try:
        nft.apply(nftables_rules.pod_rules(_EVERYTHING, fresh=True))
    except OSError as error:
        raise NoBackend(f"nftables: {first_line(error)}; load nf_tables, nft_redir and nft_ct") from error
    return CaptureBackend(NftablesCapture(around), NftablesProbes())


def _legacy(lock: Path, around: PodNetwork) -> CaptureBackend:
    return _iptables(LegacyTables(), legacy.probe, "load ip_tables and ip6_tables", lock, around)


def _restored(lock: Path, around: PodNetwork) -> CaptureBackend:
    return _iptables(RestoredTables(), restore.probe, "load nf_tables and nft_compat", lock, around)


def _iptables(tables: Tables, probe: Callable[[int], None], fix: str, lock: Path, around: PodNetwork) -> CaptureBackend:
    links.set_up("lo")
    versions = (4, 6) if Path("/proc/thread-self/net/if_inet6").exists() else (4,)
    try:
        for version in versions:
            probe(version)
            for name, table in rules.pod_tables(_EVERYTHING, version).items():
                tables.apply(version, name, table, POD_HOOKS)
    except OSError as error:
        raise NoBackend(f"{tables.label}: {first_line(error)}; {fix}") from error
    return CaptureBackend(
        IptablesCapture(tables, versions=versions, pod_network=around),
        IptablesProbes(tables, versions=versions, sets=_sets_work(tables), lock=lock),
    )


def _sets_work(tables: Tables) -> bool:
    try:
        ipsets.fill(rules.SETS[4], {"192.0.2.1"}, 4)
        tables.apply(4, "nat", rules.probe_tables(4, None)["nat"], HOST_HOOKS)
    except OSError:
        return False
    return True


_EVERYTHING: Final = PodPlan(dns=True)
"""Needs every feature of the kernel that any plan needs."""
