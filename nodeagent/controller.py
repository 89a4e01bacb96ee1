"""Enrols pods and lets them go. Decides *when*; ``discovery`` and ``capture.plan`` decide *what*.

Order, so that no connection fails and none leaves unencrypted by accident:

- Enrol: certificate asked for, listeners (ZDS), probe exemption, rules, announcement (annotation).
- Let go: announcement withdrawn, rules reduced to what open connections need, ZDS told, rules removed when the last
  captured connection has ended.

Each pod's turn is exclusive; different pods go on in parallel. What fails is tried again with backoff. Nothing is
remembered on disk: after a restart, pods that are announced are adopted as they are, and others in which the kernel
still has rules of ours are let go to the end.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from meshapi import names
from meshapi.identity import SpiffeId
from meshkit.log import logger
from meshkit.tasks import Backoff
from nodeagent import adoption
from nodeagent.adoption import Adoption
from nodeagent.capture.annotations import Planned, plan_pod
from nodeagent.capture.backend import CaptureBackend
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.discovery.enrolment import EnrolmentRules, PodFacts, belongs
from nodeagent.discovery.finder import NamespaceFinder
from nodeagent.draining import Draining
from nodeagent.enrolled import Captured, Enrolled, workload_info
from nodeagent.exemption import ProbeExemption
from nodeagent.secrets.proxies import ProxyIdentities
from nodeagent.zds.server import NotConnected, Served, ZdsServer

_log = logger("enrolment")

_CERTIFICATE_PATIENCE_S: Final = 2.0
"""A new pod waits so long for its first certificate; its first connection would wait for it anyway."""


class Certificates(Protocol):
    """Keeps certificates of the identities that are wanted."""

    def want(self, identity: SpiffeId) -> None:
        """Begin to keep an identity's certificate; counted."""
        ...

    def release(self, identity: SpiffeId) -> None:
        """Undo one ``want``."""
        ...

    async def ready(self, identity: SpiffeId, patience_s: float) -> bool:
        """Wait for a certificate that is wanted; false when it does not come in time."""
        ...


Announce = Callable[[PodFacts, str | None], Awaitable[None]]
"""Set the redirection annotation of a pod, or remove it. Raises ``OSError`` (Kubernetes errors included)."""


@dataclass(frozen=True, slots=True)
class Node:
    """What the controller knows of its node.

    Attributes:
        trust_domain: of the identities.
        rules: what is never enrolled.
        dns_capture: whether DNS is captured of pods that do not say.
    """

    trust_domain: str
    rules: EnrolmentRules
    dns_capture: bool = False


class Controller:
    """Brings each pod to where its labels want it. Used on one loop only."""

    def __init__(
        self,
        node: Node,
        *,
        pods: Mapping[str, PodFacts],
        namespace_labels: Callable[[str], Mapping[str, str]],
        enrolled: Enrolled,
        zds: ZdsServer,
        backend: CaptureBackend,
        certificates: Certificates,
        announce: Announce,
        finder: NamespaceFinder,
        exemption: ProbeExemption,
        adoption: Adoption,
    ) -> None:
        self._node = node
        self._pods = pods
        self._namespace_labels = namespace_labels
        self._enrolled = enrolled
        self._zds = zds
        self._backend = backend
        self._certificates = certificates
        self._proxies = ProxyIdentities(node.trust_domain, node.rules, certificates)
        self._announce = announce
        self._finder = finder
        self._draining = Draining(backend)
        self._turns: dict[str, asyncio.Lock] = {}
        self._wanted_turns: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._exemption = exemption
        self._adoption = adoption
        self.dismissed = False  # true: every pod is let go
        self.reconciled = 0
        """Turns that changed something."""

    def notice(self, uid: str) -> None:
        """Look at a pod again soon; cheap, and may be called as often as things change."""
        task = self._wanted_turns.get(uid)
        if task is not None and not task.done():
            self._again.add(uid)
            return
        self._wanted_turns[uid] = asyncio.create_task(self._bring(uid))

    async def adopt(self) -> None:
        """Take over the pods that an earlier life of this process has captured. Call once, before ZDS is served."""
        running = [pod for pod in self._pods.values() if not pod.terminal and not pod.host_network]
        opened = await asyncio.gather(*(self._finder.open(pod.uid) for pod in running))
        draining = 0
        for pod, namespace in zip(running, opened, strict=True):
            if namespace is not None:
                try:
                    draining += await self._adopt_pod(pod, namespace)
                except OSError as error:
                    _log.warning("pod cannot be adopted as it is", pod=pod.key, reason=str(error))
        await self._exemption.update()
        try:
            await asyncio.to_thread(self._adoption.take_over_probes)
        except OSError as error:
            _log.warning("what another backend has left on the host stays", reason=str(error))
        _log.info("adopted captured pods", pods=len(self._enrolled), draining=draining)

    async def _adopt_pod(self, pod: PodFacts, namespace: int) -> bool:
        """Take over what an earlier life has left in a pod; takes ``namespace`` over. Say whether the pod drains."""
        announced, wanted = names.REDIRECTION_ANNOTATION in pod.annotations, self._belongs(pod)
        if announced and wanted:
            captured = self._hold(pod, namespace, pod.addresses)
            await asyncio.to_thread(self._backend.prepare, namespace)
            await asyncio.to_thread(self._adoption.take_over, namespace, captured.plan)
            return False
        # What is announced and does not belong, or the other way round, is the matter of its turn.
        drain = not announced and not wanted and await asyncio.to_thread(self._adoption.has_rules, namespace)
        if drain:
            await self._drain(pod, namespace)
        else:
            os.close(namespace)
        return drain

    def wants(self, pod: PodFacts) -> bool:
        """Say whether a pod shall be captured."""
        return self._belongs(pod)

    async def add(self, pod: PodFacts, namespace: int, addresses: tuple[str, ...]) -> None:
        """Capture a pod that is wanted and whose sandbox is being made.

        Args:
            pod: as the API knows it.
            namespace: its network namespace; taken over.
            addresses: what it was given.

        Raises:
            NotConnected: nobody could listen for it.
            OSError: it cannot be captured.
        """
        async with self.turn(pod.uid):
            await self._enrol(pod, namespace, addresses)
        self.notice(pod.uid)

    async def dismiss(self, patience_s: float) -> None:
        """Let every pod go for good; what has not drained in time is cut off."""
        self.dismissed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await asyncio.gather(*(self._bring(uid) for uid in list(self._pods)))
        await self._draining.finish(patience_s)

    async def run(self) -> None:
        """Finish what takes time: removing the rules of pods that have drained. Until cancelled."""
        await self._draining.run()

    async def _bring(self, uid: str) -> None:
        backoff = Backoff(first_s=0.05, cap_s=5.0)
        while True:
            self._again.discard(uid)
            try:
                async with self.turn(uid):
                    await self._reconcile(uid)
            except (OSError, NotConnected) as error:
                pod = self._pods.get(uid)
                _log.warning("pod not as wanted, will try again", pod=pod.key if pod else uid, reason=str(error))
                await asyncio.sleep(backoff.next())
                continue
            if uid not in self._again:
                break
        self._wanted_turns.pop(uid, None)
        if uid not in self._pods:
            self._turns.pop(uid, None)

    async def _reconcile(self, uid: str) -> None:
        pod, captured = self._pods.get(uid), self._enrolled.find(uid)
        self._proxies.follow(uid, pod)
        if pod is not None and self._belongs(pod):
            if captured is None:
                await self._enrol_running(pod)
            else:
                await self._bring_up_to_date(pod, captured)
            if (
                self._enrolled.find(uid)
                and pod.annotations.get(names.REDIRECTION_ANNOTATION) != names.REDIRECTION_ENABLED
            ):
                await self._announce(pod, names.REDIRECTION_ENABLED)
            return
        if pod is not None and not pod.terminal:
            await self._let_go(pod, captured)
        elif captured is not None:
            await self._forget(uid)

    async def _bring_up_to_date(self, pod: PodFacts, captured: Captured) -> None:
        if pod.addresses and captured.addresses != pod.addresses:
            captured.addresses = pod.addresses
            await self._exemption.update()
        planned = plan_pod(pod.annotations, dns=self._node.dns_capture)
        if planned.faults != captured.planned.faults:
            _complain(pod, planned)
        if planned.plan != captured.plan:
            await asyncio.to_thread(self._backend.apply, captured.served.namespace, planned.plan)
            self.reconciled += 1
            _log.info("capture changed as annotated", pod=pod.key)
        captured.planned = planned

    async def _enrol_running(self, pod: PodFacts) -> None:
        if not pod.addresses:
            return  # its sandbox is not made yet; the CNI plugin will ask
        namespace = await self._finder.open(pod.uid)
        if namespace is None:
            raise OSError("no running process of the pod was found, so its network namespace is not known")
        await self._enrol(pod, namespace, pod.addresses, running=True)

    async def _enrol(self, pod: PodFacts, namespace: int, addresses: tuple[str, ...], *, running: bool = False) -> None:
        """Bring a pod to captured; takes ``namespace`` over."""
        began = time.monotonic()
        captured = self._hold(pod, namespace, addresses)
        report: dict[str, int] = {}
        try:
            await self._prepare(pod, captured)
            if running:
                report["connections_outside"] = await asyncio.to_thread(adoption.outside, namespace)
                await asyncio.to_thread(self._adoption.take_over, namespace, captured.plan)
            else:
                await asyncio.to_thread(self._backend.apply, namespace, captured.plan)
        except BaseException:
            await self._drop(pod.uid)
            raise
        self._draining.forget(pod.uid)
        self.reconciled += 1
        took_ms = round((time.monotonic() - began) * 1000, 1)
        listed = ",".join(addresses)
        _log.info("pod captured", pod=pod.key, identity=captured.identity, addresses=listed, took_ms=took_ms, **report)

    async def _prepare(self, pod: PodFacts, captured: Captured) -> None:
        """Everything that must stand before the rules, at the same time: a pod's start waits for this.

        Raises:
            NotConnected, OSError: the first failure, when all have ended.
        """
        has_certificate, *results = await asyncio.gather(
            self._certificates.ready(captured.identity, _CERTIFICATE_PATIENCE_S),
            self._zds.add(pod.uid, captured.served),
            self._exemption.update(),
            asyncio.to_thread(self._backend.prepare, captured.served.namespace),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if has_certificate is not True:
            _log.warning("no certificate yet, connections will wait for it", pod=pod.key)

    def _hold(self, pod: PodFacts, namespace: int, addresses: tuple[str, ...]) -> Captured:
        """List a pod before ztunnel is asked: one that connects at this very moment must hear of it too."""
        replaced = self._enrolled.take(pod.uid)
        if replaced is not None:
            self._certificates.release(replaced.identity)
            replaced.close()
        identity = SpiffeId(self._node.trust_domain, pod.namespace, pod.service_account)
        self._certificates.want(identity)
        served = Served(workload_info(pod), namespace)
        planned = plan_pod(pod.annotations, dns=self._node.dns_capture)
        _complain(pod, planned)
        captured = Captured(served, pod.key, identity, planned, addresses)
        self._enrolled.put(pod.uid, captured)
        return captured

    async def _drop(self, uid: str) -> Captured | None:
        """Take a pod off the list and out of ztunnel; its namespace is closed."""
        captured = self._enrolled.take(uid)
        if captured is None:
            return None
        try:
            await self._exemption.update()
            await self._zds.remove(uid)
        finally:
            self._certificates.release(captured.identity)
            captured.close()
        return captured

    async def _let_go(self, pod: PodFacts, captured: Captured | None) -> None:
        """Bring a pod that lives on out of the mesh."""
        announced = names.REDIRECTION_ANNOTATION in pod.annotations
        if announced:
            await self._announce(pod, None)
        if captured is None:
            if announced:
                await self._clean_up_leftovers(pod)
            return
        namespace = os.dup(captured.served.namespace)
        try:
            await asyncio.to_thread(self._backend.apply, namespace, PodPlan(mode=Mode.DRAIN))
        except OSError:
            os.close(namespace)
            raise
        self._draining.add(pod.uid, pod.key, namespace)
        await self._drop(pod.uid)
        self.reconciled += 1
        _log.info("pod let go", pod=pod.key)

    async def _clean_up_leftovers(self, pod: PodFacts) -> None:
        """The label went while this process was away: only the kernel remembers that the pod was captured."""
        namespace = await self._finder.open(pod.uid)
        if namespace is not None:
            await self._drain(pod, namespace)

    async def _drain(self, pod: PodFacts, namespace: int) -> None:
        """Reduce the rules of a pod that is not captured to what open connections need; takes ``namespace`` over."""
        try:
            await asyncio.to_thread(self._backend.prepare, namespace)
            await asyncio.to_thread(self._adoption.take_over, namespace, PodPlan(mode=Mode.DRAIN))
        except OSError:
            os.close(namespace)
            raise
        self._draining.add(pod.uid, pod.key, namespace)

    async def _forget(self, uid: str) -> None:
        """A pod has ended; its namespace goes by itself when nobody holds it."""
        captured = await self._drop(uid)
        if captured is not None:
            self.reconciled += 1
            _log.info("pod ended", pod=captured.key)

    def turn(self, uid: str) -> asyncio.Lock:
        """Return what is held by whoever changes a pod."""
        return self._turns.setdefault(uid, asyncio.Lock())

    def _belongs(self, pod: PodFacts) -> bool:
        return not self.dismissed and belongs(pod, self._namespace_labels(pod.namespace), self._node.rules)


def _complain(pod: PodFacts, planned: Planned) -> None:
    for fault in planned.faults:
        _log.warning(
            "annotation cannot be read and counts as not there",
            pod=pod.key,
            annotation=fault.annotation,
            value=fault.value,
            fix=fault.fix,
        )
