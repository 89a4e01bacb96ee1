"""A node agent's enrolment with fakes for everything that it changes: they record the calls to them, in order."""

import asyncio
import os
from collections.abc import Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from meshapi.analysis.enrolment import EnrolmentRules
from meshapi.identity import SpiffeId
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.plan import PodPlan
from nodeagent.capture.pod import Sandbox
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.discovery.finder import NamespaceFinder
from nodeagent.enrolment.captured import Enrolled
from nodeagent.enrolment.controller import Controller, Node
from nodeagent.enrolment.draining import Draining
from nodeagent.enrolment.locks import PodLocks
from nodeagent.enrolment.state import IllegalTransition, PodStates, State
from nodeagent.enrolment.takeover import Takeover
from nodeagent.enrolment.transitions import Parts
from nodeagent.zds.server import NotConnected, Served

POD = PodInfo(
    uid="u", namespace="shop", name="web", service_account="web", labels={}, annotations={},
    addresses=("10.0.0.1",), host_network=False, terminal=False,
)  # fmt: skip
ENABLED = {"ambient.istio.io/redirection": "enabled"}


class Other:
    """A backend that an earlier agent process has used."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def present(self, sandbox: Sandbox) -> bool:
        return False

    def clear(self, sandbox: Sandbox) -> bool:
        self._world.steps.append("other rules removed")
        return True

    def remove(self, host: Path) -> None:
        self._world.steps.append("other probes removed")


class Probes:
    """The rules on the host."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps
        self.exempt: frozenset[str] = frozenset()

    def apply(self, host: Path, addresses: Set[str], before: Set[str] | None) -> None:
        assert before is None or before == self.exempt
        self.exempt = frozenset(addresses)
        self._steps.append(f"probes {','.join(sorted(self.exempt))}")


def raise_illegal(error: IllegalTransition) -> None:
    raise error


class World:
    """Fakes that record the calls to them, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.pods: dict[str, PodInfo] = {POD.uid: POD}
        self.labels = {"istio.io/dataplane-mode": "ambient"}
        self.enrolled = Enrolled()
        self.connected = True
        self.broken_rules = 0
        self.probes = Probes(self.steps)
        self.certificates: list[SpiffeId] = []
        self.found = False
        self.issued = asyncio.Event()
        self.issued.set()
        host, other = Path("/proc/self/ns/net"), Other(self)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.states = PodStates(raise_illegal, now=self._tick)
        self.locks = PodLocks()
        self.draining = Draining(self, self.states, self.locks)
        self.controller = Controller(
            Node("cluster.local", EnrolmentRules()),
            Parts(
                enrolled=self.enrolled, states=self.states, locks=self.locks, capture=self, draining=self.draining,
                zds=self,
                exemption=ProbeExemption(self.probes, host, self.enrolled.addresses),
                takeover=Takeover(CaptureBackend(self, self.probes), [CaptureBackend(other, other)], host),
                certificates=self, announce=self.announce,
            ),
            pods=self.pods, namespace_labels=lambda _: self.labels, finder=NamespaceFinder(self._find),
        )  # fmt: skip

    def _tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    @property
    def state(self) -> State:
        return self.states.state(POD.uid)

    def _find(self, uids: set[str]) -> dict[str, int]:
        return {uid: os.open("/proc/self/ns/net", os.O_RDONLY) for uid in uids}

    def open(self) -> int:
        """A descriptor of a namespace, for ``Controller.add``."""
        return self._find({POD.uid})[POD.uid]

    async def settle(self) -> None:
        self.controller.notice(POD.uid)
        async with asyncio.timeout(3):
            while self.controller._tasks:
                await asyncio.sleep(0.001)

    async def announce(self, pod: PodInfo, value: str | None) -> None:
        self.steps.append(f"announce {value}")
        self.pods[pod.uid] = replace(pod, annotations={} if value is None else ENABLED)

    # ZDS
    async def add(self, uid: str, served: Served) -> None:
        if not self.connected:
            raise NotConnected("no ztunnel is connected")
        self.steps.append("listeners")

    async def remove(self, uid: str) -> None:
        self.steps.append("listeners withdrawn")

    # capture of pods
    def used_for(self, plan: PodPlan) -> "World":
        return self

    def replace(self, sandbox: Sandbox, other: "Other") -> None:
        other.clear(sandbox)

    def prepare(self, sandbox: Sandbox) -> None:
        self.steps.append("prepared")

    def apply(self, sandbox: Sandbox, plan: PodPlan) -> None:
        os.fstat(sandbox.netns)
        if self.broken_rules:
            self.broken_rules -= 1
            raise OSError("the kernel says no")
        self.steps.append(f"rules {plan.mode}")

    def present(self, sandbox: Sandbox) -> bool:
        return self.found

    # certificates
    def acquire(self, identity: SpiffeId) -> None:
        self.certificates.append(identity)

    def release(self, identity: SpiffeId) -> None:
        self.certificates.remove(identity)

    async def ready(self, identity: SpiffeId, timeout_s: float) -> bool:
        await self.issued.wait()
        return True
