"""Which backend each concern gets on this node, and why."""

from collections.abc import Iterator
from pathlib import Path

from nodeagent.capture.choice import NoBackend, Trials, Wanted, try_rules
from nodeagent.capture.ebpf import trial
from nodeagent.capture.ebpf.places import Places
from nodeagent.capture.guard import Guard
from nodeagent.capture.kernel import first_line
from nodeagent.capture.pod_network import PodNetwork
from nodeagent.check.result import Level, Result

AREA = "backend"


def check(wanted: Wanted, lock: Path, places: Places | None, *, guard: bool) -> Iterator[Result]:
    """Say what ``capture_backend`` leads to.

    Args:
        wanted: the setting.
        lock: of the host's iptables.
        places: for the backend ebpf, a folder of their own; ``None`` where it is impossible.
        guard: whether pods get a guard.
    """
    guards = Guard()
    trials = try_rules(lock, PodNetwork(guards, guarded=guard))
    ebpf, unasked = _ebpf(places, guards, trials)
    for kind in (Wanted.NFTABLES, Wanted.IPTABLES):
        if trials.found[kind]:
            hows = ", ".join(backend.pods.how for backend in trials.found[kind])
            yield Result(AREA, str(kind), Level.OK, f"works ({hows})")
        else:
            yield Result(AREA, str(kind), _unless_needed(wanted, kind), "; ".join(trials.failures[kind]))
    yield Result(AREA, "ebpf", _unless_needed(wanted, Wanted.EBPF) if ebpf else Level.OK, ebpf or "works")
    yield from _concerns(wanted, trials, unasked if wanted is Wanted.AUTO else ebpf)


def _concerns(wanted: Wanted, trials: Trials, ebpf: str) -> Iterator[Result]:
    by_rules = Wanted.AUTO if wanted is Wanted.EBPF else wanted
    try:
        chosen, why = trials.choose(by_rules, f"ebpf: {ebpf}" if ebpf else "")
    except NoBackend as error:
        yield Result(AREA, "capture", Level.FAULT, str(error))
        return
    if wanted is Wanted.EBPF or (wanted is Wanted.AUTO and not ebpf):
        level = Level.FAULT if ebpf else Level.OK
        yield Result(AREA, "capture", level, f"ebpf: {ebpf or ('as set' if wanted is Wanted.EBPF else 'preferred')}")
        yield Result(AREA, "capture of pods with virtual machines", Level.OK, f"{chosen.pods.name}: ebpf cannot")
    else:
        yield Result(AREA, "capture", Level.OK, f"{chosen.pods.name}: {why}")
    yield Result(AREA, "exemption of probes", Level.OK, f"{chosen.pods.name}: rules on the host")


def _ebpf(places: Places | None, guards: Guard, trials: Trials) -> tuple[str, str]:
    """Return why capture by BPF does not work, and why it is not chosen unasked; empty where it does, and is."""
    if places is None:
        return ("there is no unified cgroup hierarchy",) * 2
    other = next(iter(trials.all), None)
    try:
        node, _ = trial.make(places, PodNetwork(guards), other=other.pods if other else None)
    except OSError as error:
        return (first_line(error),) * 2
    try:
        trial.check_unasked(places, node)
    except OSError as error:
        return "", first_line(error)
    finally:
        node.uninstall()
    return "", ""


def _unless_needed(wanted: Wanted, kind: Wanted) -> Level:
    return Level.FAULT if wanted is kind else Level.LIMIT
