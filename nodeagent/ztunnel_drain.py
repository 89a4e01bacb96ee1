"""Releases ztunnel pods that drain from their DaemonSet, so that a rollout does not wait for open connections.

A ztunnel that is replaced carries its open connections to their end, for up to its grace period. The DaemonSet
controller judges a node by its *oldest* matching pod: while the draining one matches, the node counts as not updated,
``kubectl rollout status`` and ``helm --wait`` wait, and a pod that was deleted by hand gets no replacement. The
controller releases a pod as soon as its labels no longer match the selector (controller reference rules of
``k8s.io/kubernetes/pkg/controller``). So this module renames the ``app`` label of a terminating ztunnel pod. The
kubelet is not affected: the pod keeps its grace period and is removed when its process ends.

Runs in the node agent because ztunnel has no rights at the Kubernetes API. If the node agent is away, a rollout waits
for the drain; nothing else changes.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from meshapi import names
from meshkit.kube import errors, kinds, objects
from meshkit.kube.client import Client
from meshkit.log import logger
from meshkit.tasks import Backoff
from nodeagent.discovery.enrolment import PodInfo

_log = logger("rollout")

_DRAINING: Final = {names.APP_LABEL: names.ZTUNNEL_DRAINING}


class DrainingZtunnels:
    """Relabels the terminating ztunnel pods of this node.

    Args:
        client: has the right to patch ``pods/status``.
        pods: the pods of this node, by UID.
        namespace: where Culvert is installed.
    """

    def __init__(self, client: Client, pods: Mapping[str, PodInfo], namespace: str) -> None:
        self._client = client
        self._pods = pods
        self._namespace = namespace
        self._changed: asyncio.Queue[str] = asyncio.Queue()
        self.released = 0
        """Pods relabelled since the start."""

    def notice(self, uid: str) -> None:
        """Enqueue a pod if it has to be relabelled. Cheap: called for every change of every pod of the node."""
        if self._waits(self._pods.get(uid)):
            self._changed.put_nowait(uid)

    async def run(self) -> None:
        """Relabel enqueued pods until cancelled; failed writes are retried with backoff."""
        backoff = Backoff(first_s=0.1, cap_s=10.0)
        while True:
            uid = await self._changed.get()
            pod = self._pods.get(uid)
            if pod is None or not self._waits(pod):
                continue
            try:
                await objects.label_through_status(self._client, kinds.POD, pod.name, pod.namespace, _DRAINING)
            except errors.NotFound:
                continue  # its process has ended meanwhile
            except errors.KubeError as error:
                _log.warning("cannot relabel a draining ztunnel, retrying", pod=pod.key, reason=str(error))
                await asyncio.sleep(backoff.next())
                self._changed.put_nowait(uid)
                continue
            backoff.reset()
            self.released += 1
            _log.info("ztunnel drains, released from its DaemonSet", pod=pod.key)

    def _waits(self, pod: PodInfo | None) -> bool:
        return (
            pod is not None
            and pod.terminating
            and pod.namespace == self._namespace
            and pod.service_account == names.ZTUNNEL_SERVICE_ACCOUNT
            and pod.labels.get(names.APP_LABEL) == names.ZTUNNEL_SERVICE_ACCOUNT
        )
