"""Enrols and unenrols pods. Decides *when*; ``transitions`` makes the changes, ``capture.annotations`` plans them.

One pod is reconciled by one task at a time, different pods in parallel. Failures are retried with backoff. No state is
kept on disk: after a restart, annotated pods are taken over as they are, and pods in which the kernel still has our
rules but which are not enrolled any more are drained.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from meshapi import names
from meshapi.analysis.enrolment import Enrolment, EnrolmentRules
from meshkit.log import logger
from meshkit.tasks import Backoff
from nodeagent.capture.pod import Sandbox
from nodeagent.discovery.enrolment import PodInfo, enrolment_of
from nodeagent.discovery.finder import NamespaceFinder
from nodeagent.enrolment.captured import Captured
from nodeagent.enrolment.proxies import ProxyIdentities
from nodeagent.enrolment.transitions import Parts, Transitions
from nodeagent.zds.server import NotConnected

_log = logger("enrolment")


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
        parts: Parts,
        *,
        pods: Mapping[str, PodInfo],
        namespace_labels: Callable[[str], Mapping[str, str]],
        finder: NamespaceFinder,
    ) -> None:
        """Make the controller.

        Args:
            node: settings.
            parts: what is changed.
            pods: the pods of this node, by UID.
            namespace_labels: returns the labels of a namespace.
            finder: of running pods' network namespaces.
        """
        self._node = node
        self._parts = parts
        self._pods = pods
        self._namespace_labels = namespace_labels
        self._finder = finder
        self._transitions = Transitions(
            parts,
            trust_domain=node.trust_domain,
            dns_capture=node.dns_capture,
            namespace_labels=namespace_labels,
        )
        self._proxies = ProxyIdentities(node.trust_domain, node.rules, parts.certificates)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dirty: set[str] = set()
        self.uninstalling = False  # true: every pod is unenrolled, whatever its labels say

    @property
    def reconciled(self) -> int:
        """Reconciliations that changed a pod."""
        return self._transitions.done

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
                    self._parts.states.fail(pod.uid, str(error))
                    _log.warning("cannot take over a captured pod as it is", pod=pod.key, reason=str(error))
        await self._parts.exemption.update()
        try:
            await asyncio.to_thread(self._parts.takeover.take_over_probes)
        except OSError as error:
            _log.warning("cannot remove another backend's rules from the host", reason=str(error))
        _log.info("took over captured pods", pods=len(self._parts.enrolled), draining=draining)

    async def _adopt_pod(self, pod: PodInfo, namespace: int) -> bool:
        """Take over what a previous node agent left in a pod; owns ``namespace``. Return whether the pod drains."""
        announced, wanted = names.REDIRECTION_ANNOTATION in pod.annotations, self.wants(pod)
        if announced and wanted:
            await self._transitions.take_over(pod, namespace)
            return False
        # A pod that is annotated but not enrolled, or the reverse, is left to its reconciliation.
        sandbox = Sandbox(pod, namespace)
        if announced or wanted or not await asyncio.to_thread(self._parts.takeover.has_rules, sandbox):
            os.close(namespace)
            return False
        await self._transitions.drain_leftovers(sandbox)
        return True

    def enrolment(self, pod: PodInfo) -> Enrolment:
        """Return whether a pod's labels enrol it, or why not."""
        return enrolment_of(pod, self._namespace_labels(pod.namespace), self._node.rules)

    def wants(self, pod: PodInfo) -> bool:
        """Return whether a pod has to be captured."""
        return not self.uninstalling and self.enrolment(pod) is Enrolment.ENROLLED

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
        async with self._parts.locks.of(pod.uid):
            try:
                await self._transitions.capture(pod, namespace, addresses)
            except (OSError, NotConnected) as error:
                self._parts.states.fail(pod.uid, str(error))
                raise
        if pod.uid in self._pods:  # the watch may be behind; it notices the pod when it delivers it
            self.notice(pod.uid)

    async def unenrol_all(self, timeout_s: float) -> None:
        """Unenrol every pod for good; connections that have not drained within ``timeout_s`` seconds are cut."""
        self.uninstalling = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(self._reconcile_pod(uid) for uid in list(self._pods)))
        await self._parts.draining.finish(timeout_s)

    async def run(self) -> None:
        """Remove the rules of pods that have drained, until cancelled."""
        await self._parts.draining.run()

    async def _reconcile_pod(self, uid: str) -> None:
        backoff = Backoff(first_s=0.05, cap_s=5.0)
        while True:
            self._dirty.discard(uid)
            try:
                async with self._parts.locks.of(uid):
                    await self._reconcile_once(uid)
            except (OSError, NotConnected) as error:
                pod = self._pods.get(uid)
                self._parts.states.fail(uid, str(error))
                _log.warning("cannot reconcile pod, retrying", pod=pod.key if pod else uid, reason=str(error))
                await asyncio.sleep(backoff.next())
                continue
            self._parts.states.succeed(uid)
            if uid not in self._dirty:
                break
        self._tasks.pop(uid, None)
        if uid not in self._pods:
            self._parts.states.forget(uid)

    async def _reconcile_once(self, uid: str) -> None:
        pod, captured = self._pods.get(uid), self._parts.enrolled.find(uid)
        self._proxies.follow(uid, pod)
        if pod is not None and self.wants(pod):
            await self._keep_enrolled(pod, captured)
        elif pod is not None and not pod.terminal:
            await self._keep_out(pod, captured)
        elif captured is not None:
            await self._transitions.end(uid)
        elif pod is not None:
            self._transitions.leave_alone(uid)

    async def _keep_enrolled(self, pod: PodInfo, captured: Captured | None) -> None:
        if captured is not None:
            await self._transitions.update(pod, captured)
        elif pod.addresses:
            self._transitions.wait(pod.uid)
            namespace = await self._finder.open(pod.uid)
            if namespace is None:
                raise OSError("the pod has no running process, so its network namespace is unknown")
            await self._transitions.capture(pod, namespace, pod.addresses, running=True)
        else:
            self._transitions.wait(pod.uid)  # its sandbox does not exist yet; the CNI plugin will request it
            return
        await self._transitions.announce(pod)

    async def _keep_out(self, pod: PodInfo, captured: Captured | None) -> None:
        if captured is not None:
            await self._transitions.unenrol(pod, captured)
            return
        if await self._transitions.revoke_announcement(pod):
            # The label was removed while no node agent ran: only the kernel knows that the pod was captured.
            namespace = await self._finder.open(pod.uid)
            if namespace is not None:
                await self._transitions.drain_leftovers(Sandbox(pod, namespace))
                return
        self._transitions.leave_alone(pod.uid)
