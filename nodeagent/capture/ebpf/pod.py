"""Captures a pod by BPF. Applies plans; decides nothing.

Order: what carries a captured connection (return route, loopback program, the hook for connections from outside) is in
place before the plan, which both directions read at once; the guard comes last.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from meshapi import names
from meshkit.linux import changes, sockets, sysctl
from meshkit.linux import netns as namespaces
from meshkit.log import logger
from nodeagent.capture.ebpf import facts, rules
from nodeagent.capture.ebpf.node import EbpfNode
from nodeagent.capture.ebpf.pod_links import PodLinks
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.capture.pod_network import PodNetwork

_log = logger("capture")

T = TypeVar("T")

_REPLY_SETTINGS: Final = ("net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect")
"""What answers a packet gets the packet's mark: so the application's answers are routed to the tunnel, which connects
under its client's address. IPv6 may be absent."""


Ends = tuple[tuple[str, int], tuple[str, int]]
"""Address and port of both ends of a connection."""


@dataclass(frozen=True, slots=True)
class _Replaced:
    """Rules of another backend that stay for the connections that were open when it was replaced.

    Later ones do not count: in a busy pod, some connection is always open.
    """

    backend: PodCapture
    needed: frozenset[Ends]


class EbpfCapture:
    """See ``PodCapture``. A plan that it does not support is applied by another backend, pod by pod."""

    name = "ebpf"
    how = "cgroup hooks, sk_lookup and tc"

    def __init__(self, node: EbpfNode, around: PodNetwork, *, other: PodCapture | None = None) -> None:
        """Make a backend.

        Args:
            node: whose hooks are attached.
            around: what pods get besides. Its guard is of the other backends: its programs are detached, and it counts
                for this one, whose guard pods get where they are guarded.
            other: the backend for plans that this one does not support.
        """
        self._node = node
        self._guard = around.guard
        self._links = PodLinks(node, around.guard, guarded=around.guarded)
        self._routing = replace(around, guarded=False)
        self._other = other
        self._left_to_other: set[int] = set()
        self._replaced: dict[int, _Replaced] = {}

    def used_for(self, plan: PodPlan) -> PodCapture:
        """See ``PodCapture.used_for``.

        Raises:
            OSError: there is no backend for the plan.
        """
        if rules.is_supported(plan):
            return self
        if self._other is None:
            what = ", ".join(plan.virtual_interfaces or plan.excluded_interfaces)
            raise OSError(
                f"ebpf does not capture what passes interfaces {what}, and neither nftables nor iptables work"
            )
        return self._other

    def replace(self, sandbox: Sandbox, other: PodCapture) -> None:
        """See ``PodCapture.replace``: rules that rewrite packets of open connections stay, for these alone."""
        needed = frozenset(_inside(sandbox, _redirected)) if other.present(sandbox) else frozenset()
        if needed:
            other.apply(sandbox, PodPlan(mode=Mode.DRAIN))
            self._replaced[_inside(sandbox, namespaces.cookie)] = _Replaced(other, needed)
            _log.info("rules stay for open connections", pod=sandbox.pod.key, backend=other.name, open=len(needed))
        else:
            other.clear(sandbox)

    def prepare(self, sandbox: Sandbox) -> None:
        """See ``PodCapture.prepare``."""
        _inside(sandbox, self._prepare)

    def apply(self, sandbox: Sandbox, plan: PodPlan) -> None:
        """See ``PodCapture.apply``."""
        used = self.used_for(plan)
        if used is not self:
            used.apply(sandbox, plan)
            self.clear(sandbox)
            self._left_to_other.add(_inside(sandbox, namespaces.cookie))
            return
        _inside(sandbox, lambda: self._apply(sandbox, plan))
        cookie = _inside(sandbox, namespaces.cookie)
        if self._other is not None and cookie in self._left_to_other:
            self._other.clear(sandbox)
            self._left_to_other.discard(cookie)

    def clear(self, sandbox: Sandbox) -> bool:
        """See ``PodCapture.clear``."""
        return _inside(sandbox, self._clear)

    def present(self, sandbox: Sandbox) -> bool:
        """See ``PodCapture.present``."""
        cookie = _inside(sandbox, namespaces.cookie)
        is_left = self._other is not None and cookie in self._left_to_other and self._other.present(sandbox)
        return is_left or self._node.has_plan(cookie)

    def missing(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """See ``PodCapture.missing``."""
        used = self.used_for(plan)
        if used is not self:
            return used.missing(sandbox, plan)
        self._clear_replaced(sandbox)
        return _inside(sandbox, lambda: self._missing(sandbox, plan))

    def repair(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        """See ``PodCapture.repair``."""
        used = self.used_for(plan)
        if used is not self:
            return used.repair(sandbox, plan)

        self._clear_replaced(sandbox)

        def work() -> tuple[str, ...]:
            missing = self._missing(sandbox, plan)
            if missing:
                if self._node.missing():
                    self._node.attach()
                self._prepare()
                self._apply(sandbox, plan)
            return missing

        return _inside(sandbox, work)

    def watch(self, sandbox: Sandbox, plan: PodPlan) -> changes.Changes:
        """See ``PodCapture.watch``."""
        used = self.used_for(plan)
        if used is not self:
            return used.watch(sandbox, plan)
        return _inside(sandbox, lambda: changes.watch(files=self._node.files(namespaces.cookie())))

    def _clear_replaced(self, sandbox: Sandbox) -> None:
        """Remove another backend's rules when the last connection that needed them has ended."""
        cookie = _inside(sandbox, namespaces.cookie)
        replaced = self._replaced.get(cookie)
        if replaced is not None and replaced.needed.isdisjoint(_inside(sandbox, _redirected)):
            replaced.backend.clear(sandbox)
            del self._replaced[cookie]
            _log.info("rules removed", pod=sandbox.pod.key, backend=replaced.backend.name)

    def _prepare(self) -> None:
        self._routing.prepare()
        _set_all("1")

    def _apply(self, sandbox: Sandbox, plan: PodPlan) -> None:
        if plan.mode is Mode.NONE:
            self._clear()
            cookie = namespaces.cookie()
            if cookie in self._replaced:
                self._replaced[cookie].backend.clear(sandbox)
                del self._replaced[cookie]
            self._routing.after_rules(plan)
            return
        cookie = namespaces.cookie()
        # Detaches the guard of the other backends, too: it drops packets without the mark that only their rules set.
        self._routing.before_rules(plan)
        _set_all("1")
        if self._links.carry(cookie):
            self._node.adopt_listener(cookie)
            self._prune()
        if plan.mode is Mode.DRAIN:
            self._links.guard(cookie, plan)
        self._node.attach_pod(cookie, sandbox.netns)
        wanted = _rules(sandbox, plan)
        if not self._node.is_planned(cookie, wanted):
            self._node.plan(cookie, wanted)
        self._links.guard(cookie, plan)
        self._routing.after_rules(plan)

    def _prune(self) -> None:
        """Forget pods that have ended: ``clear`` is not called for a namespace that has gone."""
        for cookie in self._node.prune():
            self._links.forget(cookie)
            self._left_to_other.discard(cookie)
            self._replaced.pop(cookie, None)

    def _clear(self) -> bool:
        cookie = namespaces.cookie()
        detached = self._links.detach(cookie)
        removed = self._node.remove(cookie)
        if removed or detached:
            _set_all("0")
        return removed or detached

    def _missing(self, sandbox: Sandbox, plan: PodPlan) -> tuple[str, ...]:
        cookie = namespaces.cookie()
        if plan.mode is Mode.NONE:
            return ("rules left",) if self._node.has_plan(cookie) else ()
        found = list(self._node.missing())
        if not self._node.is_planned(cookie, _rules(sandbox, plan)):
            found.append("plan")
        if not self._node.is_attached(cookie, sandbox.netns):
            found.append("hook cv_inbound")
        found += self._links.missing(plan)
        found += [setting for setting in _REPLY_SETTINGS if sysctl.read(setting) not in ("1", None)]
        return (*found, *self._routing.missing(plan))


def _redirected() -> Iterator[Ends]:
    """The connections whose packets rules have to rewrite or to route; those between tunnels are not among them."""
    return ((one.local, one.remote) for one in sockets.carried(names.REDIRECT_PORTS))


def _set_all(value: str) -> None:
    for setting in _REPLY_SETTINGS:
        with suppress(FileNotFoundError):
            sysctl.write(setting, value)


def _rules(sandbox: Sandbox, plan: PodPlan) -> rules.PodRules:
    return rules.pod_rules(plan, facts.read(sandbox.pod.addresses))


def _inside(sandbox: Sandbox, work: Callable[[], T]) -> T:
    return namespaces.run(sandbox.netns, work)
