"""One function for each transition of a pod. Makes the change; ``controller`` decides when.

Order, so that no connection fails and none leaves in plain text by accident:

- Enrol: request the certificate, open the listeners (ZDS), exempt the probes, install the rules, set the annotation.
- Unenrol: remove the annotation, reduce the rules to what open connections need, notify ztunnel (ZDS), remove the rules
  when the last captured connection has ended (``draining``).

The caller holds the pod's lock. A function that raises has recorded no state that it has not reached; it can be called
again.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from meshapi import names
from meshapi.analysis.egress import is_registry_only
from meshapi.identity import SpiffeId
from meshkit.log import logger
from nodeagent.capture.annotations import PlanResult, plan_pod
from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import PodCapture, Sandbox
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.enrolment import takeover
from nodeagent.enrolment.captured import Captured, Enrolled
from nodeagent.enrolment.draining import Draining
from nodeagent.enrolment.locks import PodLocks
from nodeagent.enrolment.state import PodStates, State
from nodeagent.enrolment.takeover import Takeover
from nodeagent.zds.server import ZdsServer

_log = logger("enrolment")

_CERTIFICATE_TIMEOUT_S: Final = 2.0
"""How long a new pod waits for its first certificate; its first connection would wait for it anyway."""


class Certificates(Protocol):
    """Requests and renews the certificates of the identities in use."""

    def acquire(self, identity: SpiffeId) -> None:
        """Add one user of an identity's certificate; the first one makes it be requested."""
        ...

    def release(self, identity: SpiffeId) -> None:
        """Remove one user."""
        ...

    async def ready(self, identity: SpiffeId, timeout_s: float) -> bool:
        """Wait for the certificate of an acquired identity; false when it is not issued in time."""
        ...


Announce = Callable[[PodInfo, str | None], Awaitable[None]]
"""Set the redirection annotation of a pod, or remove it. Raises ``OSError`` (Kubernetes errors included)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What transitions change.

    Attributes:
        enrolled: the captured pods.
        states: of all pods of the node.
        locks: of all pods of the node.
        capture: the backend.
        takeover: replaces what a previous node agent has left.
        draining: pods that are no longer enrolled.
        exemption: of the kubelet's probes.
        zds: notifies ztunnel.
        certificates: of the identities in use.
        announce: sets the annotation.
    """

    enrolled: Enrolled
    states: PodStates
    locks: PodLocks
    capture: PodCapture
    takeover: Takeover
    draining: Draining
    exemption: ProbeExemption
    zds: ZdsServer
    certificates: Certificates
    announce: Announce


class Transitions:
    """The transitions. Not thread-safe: used on one event loop.

    Attributes:
        done: transitions and changes of rules that were made since the start.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        trust_domain: str,
        dns_capture: bool,
        namespace_labels: Callable[[str], Mapping[str, str]],
    ) -> None:
        """Make them.

        Args:
            parts: what is changed.
            trust_domain: of the workloads' identities.
            dns_capture: whether DNS is captured in pods without an annotation for it.
            namespace_labels: returns the labels of a namespace.
        """
        self._parts = parts
        self._trust_domain = trust_domain
        self._dns_capture = dns_capture
        self._namespace_labels = namespace_labels
        self.done = 0

    def leave_alone(self, uid: str) -> None:
        """NEW, WAITING → NOT_ENROLLED: the pod is not enrolled and nothing of it is captured."""
        if self._parts.states.state(uid) is not State.DRAINING:
            self._parts.states.move(uid, State.NOT_ENROLLED)

    def wait(self, uid: str) -> None:
        """NEW, NOT_ENROLLED → WAITING: the pod is enrolled and cannot be captured yet. A pod that drains goes on."""
        if self._parts.states.state(uid) is not State.DRAINING:
            self._parts.states.move(uid, State.WAITING)

    async def take_over(self, pod: PodInfo, namespace: int) -> None:
        """NEW → ANNOUNCED: a previous node agent has captured the pod. Owns ``namespace``.

        Raises:
            OSError: the rules may be as the previous node agent left them; they redirect.
        """
        captured = self._register(pod, namespace, pod.addresses)
        self._parts.states.move(pod.uid, State.ANNOUNCED)
        await asyncio.to_thread(self._parts.capture.prepare, captured.sandbox)
        await asyncio.to_thread(self._parts.takeover.take_over, captured.sandbox, captured.plan)

    async def capture(self, pod: PodInfo, namespace: int, addresses: tuple[str, ...], *, running: bool = False) -> None:
        """Any state → CAPTURING → CAPTURED. Owns ``namespace``.

        Args:
            pod: the pod, enrolled.
            namespace: descriptor of its network namespace.
            addresses: its addresses.
            running: whether its containers run: connections may be open and rules of another backend in place.

        Raises:
            NotConnected, OSError: the pod waits again, or goes on draining.
        """
        began = time.monotonic()
        parts, uid = self._parts, pod.uid
        earlier = parts.states.observe(uid)
        captured = self._register(pod, namespace, addresses)
        parts.states.move(uid, State.CAPTURING)
        report: dict[str, int] = {}
        try:
            await self._prepare(pod, captured)
            if running:
                report["connections_outside"] = await asyncio.to_thread(takeover.outside, captured.sandbox)
                await asyncio.to_thread(parts.takeover.take_over, captured.sandbox, captured.plan)
            else:
                await asyncio.to_thread(parts.capture.apply, captured.sandbox, captured.plan)
        except BaseException:
            try:
                await self._unregister(uid)
            finally:
                after = State.DRAINING if uid in parts.draining else State.WAITING
                parts.states.move(uid, after, since=earlier.since if after is earlier.state else None)
            raise
        parts.draining.forget(uid)
        parts.states.move(uid, State.CAPTURED)
        self.done += 1
        took_ms = round((time.monotonic() - began) * 1000, 1)
        listed = ",".join(addresses)
        _log.info("pod captured", pod=pod.key, identity=captured.identity, addresses=listed, took_ms=took_ms, **report)

    async def update(self, pod: PodInfo, captured: Captured) -> None:
        """Apply changed addresses and annotations to a captured pod.

        Raises:
            OSError: the earlier plan may still be in force.
        """
        if pod.addresses and captured.addresses != pod.addresses:
            captured.addresses = pod.addresses
            await self._parts.exemption.update()
        planned = self._plan(pod)
        if (planned.faults, planned.overruled) != (captured.planned.faults, captured.planned.overruled):
            _warn_of_faults(pod, planned)
        if planned.plan != captured.plan:
            await asyncio.to_thread(self._parts.capture.apply, captured.sandbox, planned.plan)
            self.done += 1
            _log.info("capture changed to match labels and annotations", pod=pod.key)
        captured.planned = planned

    async def announce(self, pod: PodInfo) -> None:
        """CAPTURED, UNENROLLING → ANNOUNCED: set the annotation where it is missing.

        Raises:
            OSError: the annotation is not set.
        """
        states = self._parts.states
        if states.state(pod.uid) is State.UNENROLLING:  # enrolled again before its rules were reduced
            states.move(pod.uid, State.CAPTURED)
        if pod.annotations.get(names.REDIRECTION_ANNOTATION) != names.REDIRECTION_ENABLED:
            await self._parts.announce(pod, names.REDIRECTION_ENABLED)
        states.move(pod.uid, State.ANNOUNCED)

    async def revoke_announcement(self, pod: PodInfo) -> bool:
        """Remove the annotation of a pod; return whether it had one. Raises ``OSError`` as ``announce``."""
        if names.REDIRECTION_ANNOTATION not in pod.annotations:
            return False
        await self._parts.announce(pod, None)
        return True

    async def unenrol(self, pod: PodInfo, captured: Captured) -> None:
        """CAPTURED, ANNOUNCED → UNENROLLING → DRAINING: take a running pod out of the mesh.

        Raises:
            OSError: a step has failed; those before it are done.
        """
        parts = self._parts
        parts.states.move(pod.uid, State.UNENROLLING)
        await self.revoke_announcement(pod)
        sandbox = Sandbox(pod, os.dup(captured.sandbox.netns))
        try:
            await asyncio.to_thread(parts.capture.apply, sandbox, PodPlan(mode=Mode.DRAIN))
        except OSError:
            os.close(sandbox.netns)
            raise
        self._drain(sandbox)
        await self._unregister(pod.uid)
        self.done += 1
        _log.info("pod unenrolled", pod=pod.key)

    async def drain_leftovers(self, sandbox: Sandbox) -> None:
        """NEW, NOT_ENROLLED, WAITING → DRAINING: a previous node agent has captured the pod. Owns the sandbox.

        Raises:
            OSError: the pod is left as it was, or with fewer rules.
        """
        try:
            await asyncio.to_thread(self._parts.capture.prepare, sandbox)
            await asyncio.to_thread(self._parts.takeover.take_over, sandbox, PodPlan(mode=Mode.DRAIN))
        except OSError:
            os.close(sandbox.netns)
            raise
        self._drain(sandbox)

    async def end(self, uid: str) -> None:
        """CAPTURED, ANNOUNCED, UNENROLLING → NOT_ENROLLED: the pod's processes have ended.

        Its namespace goes with its last descriptor.

        Raises:
            OSError: the probes are still exempt.
        """
        try:
            captured = await self._unregister(uid)
        finally:
            self._parts.states.move(uid, State.NOT_ENROLLED)
        if captured is not None:
            self.done += 1
            _log.info("pod ended", pod=captured.key)

    def _drain(self, sandbox: Sandbox) -> None:
        self._parts.draining.add(sandbox)
        self._parts.states.move(sandbox.pod.uid, State.DRAINING)

    async def _prepare(self, pod: PodInfo, captured: Captured) -> None:
        """Do everything that must precede the rules, in parallel: a pod's start waits for it.

        Raises:
            NotConnected, OSError: the first failure, after all steps have ended.
        """
        parts = self._parts
        has_certificate, *results = await asyncio.gather(
            parts.certificates.ready(captured.identity, _CERTIFICATE_TIMEOUT_S),
            parts.zds.add(pod.uid, captured.served),
            parts.exemption.update(),
            asyncio.to_thread(parts.capture.prepare, captured.sandbox),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if has_certificate is not True:
            _log.warning("no certificate yet, connections of the pod wait for it", pod=pod.key)

    def _register(self, pod: PodInfo, namespace: int, addresses: tuple[str, ...]) -> Captured:
        """Add a pod before ztunnel is notified: a ztunnel that connects meanwhile gets it in its snapshot."""
        parts = self._parts
        replaced = parts.enrolled.take(pod.uid)
        if replaced is not None:
            parts.certificates.release(replaced.identity)
            replaced.close()
        identity = SpiffeId(self._trust_domain, pod.namespace, pod.service_account)
        parts.certificates.acquire(identity)
        planned = self._plan(pod)
        _warn_of_faults(pod, planned)
        captured = Captured(Sandbox(pod, namespace), identity, planned, addresses)
        parts.enrolled.put(pod.uid, captured)
        return captured

    def _plan(self, pod: PodInfo) -> PlanResult:
        held = is_registry_only(pod.labels, self._namespace_labels(pod.namespace))
        return plan_pod(pod.annotations, dns=self._dns_capture, registry_only=held)

    async def _unregister(self, uid: str) -> Captured | None:
        """Remove a pod from the table and from ztunnel; close its namespace."""
        parts = self._parts
        captured = parts.enrolled.take(uid)
        if captured is None:
            return None
        try:
            await parts.exemption.update()
            await parts.zds.remove(uid)
        finally:
            parts.certificates.release(captured.identity)
            captured.close()
        return captured


def _warn_of_faults(pod: PodInfo, planned: PlanResult) -> None:
    for fault in planned.faults:
        _log.warning(
            "annotation is invalid and is ignored",
            pod=pod.key,
            annotation=fault.annotation,
            value=fault.value,
            fix=fault.fix,
        )
    if planned.overruled:
        _log.warning(
            "annotations have no effect, the pod may reach only what the registry knows",
            pod=pod.key,
            annotations=",".join(planned.overruled),
            label=names.EGRESS_LABEL,
        )
