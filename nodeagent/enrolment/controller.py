"""Enrols and unenrols pods. Decides *when*; ``discovery`` and ``capture.plan`` decide *what*.

Order, so that no connection fails and none leaves in plain text by accident:

- Enrol: request the certificate, open the listeners (ZDS), exempt the probes, install the rules, set the annotation.
- Unenrol: remove the annotation, reduce the rules to what open connections need, notify ztunnel (ZDS), remove the rules
  when the last captured connection has ended.

One pod is reconciled by one task at a time, different pods in parallel. Failures are retried with backoff. No state is
kept on disk: after a restart, annotated pods are taken over as they are, and pods in which the kernel still has our
rules but which are not enrolled any more are drained.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from meshapi import names
from meshapi.analysis.enrolment import Enrolment, EnrolmentRules
from meshapi.identity import SpiffeId
from meshkit.log import logger
from meshkit.tasks import Backoff
from nodeagent.capture.annotations import PlanResult, plan_pod
from nodeagent.capture.host_probes import ProbeExemption
from nodeagent.capture.plan import Mode, PodPlan
from nodeagent.capture.pod import CaptureBackend
from nodeagent.discovery.enrolment import PodInfo, enrolment_of
from nodeagent.discovery.finder import NamespaceFinder
from nodeagent.enrolment import takeover
from nodeagent.enrolment.captured import Captured, Enrolled, workload_info
from nodeagent.enrolment.draining import Draining
from nodeagent.enrolment.takeover import Takeover
from nodeagent.secrets.proxies import ProxyIdentities
from nodeagent.zds.server import NotConnected, Served, ZdsServer

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
class Node:
    """Settings of this node.

    Attributes:
        trust_domain: of the workloads' identities.
        rules: which pods are never enrolled.
        dns_capture: whether DNS is captured in pods without an annotation for it.
    """

    trust_domain: str
    rules: EnrolmentRules
    dns_capture: bool = False


class Controller:
    """Reconciles each pod of the node with its labels. Not thread-safe: used on one event loop."""

    def __init__(
        self,
        node: Node,
        *,
        pods: Mapping[str, PodInfo],
        namespace_labels: Callable[[str], Mapping[str, str]],
        enrolled: Enrolled,
        zds: ZdsServer,
        backend: CaptureBackend,
        certificates: Certificates,
        announce: Announce,
        finder: NamespaceFinder,
        exemption: ProbeExemption,
        takeover: Takeover,
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
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dirty: set[str] = set()
        self._exemption = exemption
        self._takeover = takeover
        self.uninstalling = False  # true: every pod is unenrolled, whatever its labels say
        self.reconciled = 0
        """Reconciliations that changed a pod."""

    def notice(self, uid: str) -> None:
        """Enqueue a pod for reconciliation. Cheap: call it for every change."""
        task = self._tasks.get(uid)
        if task is not None and not task.done():
            self._dirty.add(uid)
            return
        self._tasks[uid] = asyncio.create_task(self._reconcile_pod(uid))

    async def adopt(self) -> None:
        """Take over the pods that a previous node agent has captured. Call once, before ZDS is served."""
        running = [pod for pod in self._pods.values() if not pod.terminal and not pod.host_network]
        opened = await asyncio.gather(*(self._finder.open(pod.uid) for pod in running))
        draining = 0
        for pod, namespace in zip(running, opened, strict=True):
            if namespace is not None:
                try:
                    draining += await self._adopt_pod(pod, namespace)
                except OSError as error:
                    _log.warning("cannot take over a captured pod as it is", pod=pod.key, reason=str(error))
        await self._exemption.update()
        try:
            await asyncio.to_thread(self._takeover.take_over_probes)
        except OSError as error:
            _log.warning("cannot remove another backend's rules from the host", reason=str(error))
        _log.info("took over captured pods", pods=len(self._enrolled), draining=draining)

    async def _adopt_pod(self, pod: PodInfo, namespace: int) -> bool:
        """Take over what a previous node agent left in a pod; owns ``namespace``. Return whether the pod drains."""
        announced, wanted = names.REDIRECTION_ANNOTATION in pod.annotations, self._is_enrolled(pod)
        if announced and wanted:
            captured = self._register(pod, namespace, pod.addresses)
            await asyncio.to_thread(self._backend.prepare, namespace)
            await asyncio.to_thread(self._takeover.take_over, namespace, captured.plan)
            return False
        # A pod that is annotated but not enrolled, or the reverse, is left to its reconciliation.
        drain = not announced and not wanted and await asyncio.to_thread(self._takeover.has_rules, namespace)
        if drain:
            await self._drain(pod, namespace)
        else:
            os.close(namespace)
        return drain

    def wants(self, pod: PodInfo) -> bool:
        """Return whether a pod has to be captured."""
        return self._is_enrolled(pod)

    async def add(self, pod: PodInfo, namespace: int, addresses: tuple[str, ...]) -> None:
        """Capture an enrolled pod while its sandbox is being created.

        Args:
            pod: as the API server has it.
            namespace: descriptor of its network namespace; this call owns it from now on.
            addresses: its addresses from the CNI result.

        Raises:
            NotConnected: no ztunnel is connected.
            OSError: the pod cannot be captured.
        """
        async with self.lock(pod.uid):
            await self._enrol(pod, namespace, addresses)
        self.notice(pod.uid)

    async def unenrol_all(self, timeout_s: float) -> None:
        """Unenrol every pod for good; connections that have not drained within ``timeout_s`` seconds are cut."""
        self.uninstalling = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(self._reconcile_pod(uid) for uid in list(self._pods)))
        await self._draining.finish(timeout_s)

    async def run(self) -> None:
        """Remove the rules of pods that have drained, until cancelled."""
        await self._draining.run()

    async def _reconcile_pod(self, uid: str) -> None:
        backoff = Backoff(first_s=0.05, cap_s=5.0)
        while True:
            self._dirty.discard(uid)
            try:
                async with self.lock(uid):
                    await self._reconcile_once(uid)
            except (OSError, NotConnected) as error:
                pod = self._pods.get(uid)
                _log.warning("cannot reconcile pod, retrying", pod=pod.key if pod else uid, reason=str(error))
                await asyncio.sleep(backoff.next())
                continue
            if uid not in self._dirty:
                break
        self._tasks.pop(uid, None)
        if uid not in self._pods:
            self._locks.pop(uid, None)

    async def _reconcile_once(self, uid: str) -> None:
        pod, captured = self._pods.get(uid), self._enrolled.find(uid)
        self._proxies.follow(uid, pod)
        if pod is not None and self._is_enrolled(pod):
            if captured is None:
                await self._enrol_running(pod)
            else:
                await self._update_captured(pod, captured)
            if (
                self._enrolled.find(uid)
                and pod.annotations.get(names.REDIRECTION_ANNOTATION) != names.REDIRECTION_ENABLED
            ):
                await self._announce(pod, names.REDIRECTION_ENABLED)
            return
        if pod is not None and not pod.terminal:
            await self._unenrol(pod, captured)
        elif captured is not None:
            await self._remove(uid)

    async def _update_captured(self, pod: PodInfo, captured: Captured) -> None:
        if pod.addresses and captured.addresses != pod.addresses:
            captured.addresses = pod.addresses
            await self._exemption.update()
        planned = plan_pod(pod.annotations, dns=self._node.dns_capture)
        if planned.faults != captured.planned.faults:
            _warn_of_faults(pod, planned)
        if planned.plan != captured.plan:
            await asyncio.to_thread(self._backend.apply, captured.served.namespace, planned.plan)
            self.reconciled += 1
            _log.info("capture changed to match the annotations", pod=pod.key)
        captured.planned = planned

    async def _enrol_running(self, pod: PodInfo) -> None:
        if not pod.addresses:
            return  # its sandbox does not exist yet; the CNI plugin will request it
        namespace = await self._finder.open(pod.uid)
        if namespace is None:
            raise OSError("the pod has no running process, so its network namespace is unknown")
        await self._enrol(pod, namespace, pod.addresses, running=True)

    async def _enrol(self, pod: PodInfo, namespace: int, addresses: tuple[str, ...], *, running: bool = False) -> None:
        """Capture a pod; owns ``namespace``."""
        began = time.monotonic()
        captured = self._register(pod, namespace, addresses)
        report: dict[str, int] = {}
        try:
            await self._prepare(pod, captured)
            if running:
                report["connections_outside"] = await asyncio.to_thread(takeover.outside, namespace)
                await asyncio.to_thread(self._takeover.take_over, namespace, captured.plan)
            else:
                await asyncio.to_thread(self._backend.apply, namespace, captured.plan)
        except BaseException:
            await self._unregister(pod.uid)
            raise
        self._draining.forget(pod.uid)
        self.reconciled += 1
        took_ms = round((time.monotonic() - began) * 1000, 1)
        listed = ",".join(addresses)
        _log.info("pod captured", pod=pod.key, identity=captured.identity, addresses=listed, took_ms=took_ms, **report)

    async def _prepare(self, pod: PodInfo, captured: Captured) -> None:
        """Do everything that must precede the rules, in parallel: a pod's start waits for it.

        Raises:
            NotConnected, OSError: the first failure, after all steps have ended.
        """
        has_certificate, *results = await asyncio.gather(
            self._certificates.ready(captured.identity, _CERTIFICATE_TIMEOUT_S),
            self._zds.add(pod.uid, captured.served),
            self._exemption.update(),
            asyncio.to_thread(self._backend.prepare, captured.served.namespace),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if has_certificate is not True:
            _log.warning("no certificate yet, connections of the pod wait for it", pod=pod.key)

    def _register(self, pod: PodInfo, namespace: int, addresses: tuple[str, ...]) -> Captured:
        """Add a pod before ztunnel is notified: a ztunnel that connects meanwhile gets it in its snapshot."""
        replaced = self._enrolled.take(pod.uid)
        if replaced is not None:
            self._certificates.release(replaced.identity)
            replaced.close()
        identity = SpiffeId(self._node.trust_domain, pod.namespace, pod.service_account)
        self._certificates.acquire(identity)
        served = Served(workload_info(pod), namespace)
        planned = plan_pod(pod.annotations, dns=self._node.dns_capture)
        _warn_of_faults(pod, planned)
        captured = Captured(served, pod.key, identity, planned, addresses)
        self._enrolled.put(pod.uid, captured)
        return captured

    async def _unregister(self, uid: str) -> Captured | None:
        """Remove a pod from the table and from ztunnel; close its namespace."""
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

    async def _unenrol(self, pod: PodInfo, captured: Captured | None) -> None:
        """Take a running pod out of the mesh."""
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
        await self._unregister(pod.uid)
        self.reconciled += 1
        _log.info("pod unenrolled", pod=pod.key)

    async def _clean_up_leftovers(self, pod: PodInfo) -> None:
        """The label was removed while no node agent ran: only the kernel knows that the pod was captured."""
        namespace = await self._finder.open(pod.uid)
        if namespace is not None:
            await self._drain(pod, namespace)

    async def _drain(self, pod: PodInfo, namespace: int) -> None:
        """Reduce the rules of an unenrolled pod to what open connections need; owns ``namespace``."""
        try:
            await asyncio.to_thread(self._backend.prepare, namespace)
            await asyncio.to_thread(self._takeover.take_over, namespace, PodPlan(mode=Mode.DRAIN))
        except OSError:
            os.close(namespace)
            raise
        self._draining.add(pod.uid, pod.key, namespace)

    async def _remove(self, uid: str) -> None:
        """Forget a pod that has ended; its namespace goes with its last descriptor."""
        captured = await self._unregister(uid)
        if captured is not None:
            self.reconciled += 1
            _log.info("pod ended", pod=captured.key)

    def lock(self, uid: str) -> asyncio.Lock:
        """Return the lock that serializes changes of a pod."""
        return self._locks.setdefault(uid, asyncio.Lock())

    def _is_enrolled(self, pod: PodInfo) -> bool:
        if self.uninstalling:
            return False
        return enrolment_of(pod, self._namespace_labels(pod.namespace), self._node.rules) is Enrolment.ENROLLED


def _warn_of_faults(pod: PodInfo, planned: PlanResult) -> None:
    for fault in planned.faults:
        _log.warning(
            "annotation is invalid and is ignored",
            pod=pod.key,
            annotation=fault.annotation,
            value=fault.value,
            fix=fault.fix,
        )
