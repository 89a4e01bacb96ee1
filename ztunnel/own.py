"""ztunnel's own pod as a workload of the mesh.

With the label ``networking.istio.io/tunnel: http`` the control plane announces the pod as one that is reached by HBONE,
so port 15008 is served in it: for its metrics, above all. Policy for the pod holds there as for any workload. The pod
is not captured: what it sends is not carried, and what reaches its ports without a tunnel stays plain text.
"""

import os
from pathlib import Path

from meshapi import names
from meshapi.proto import engine_pb2, zds_pb2
from meshengine import Engine
from ztunnel.settings import ZtunnelSettings
from ztunnel.workloads import Workloads

_NETNS = Path("/proc/self/ns/net")


class OwnWorkload:
    """This process's own pod. Does nothing without the label."""

    def __init__(self, engine: Engine, settings: ZtunnelSettings) -> None:
        self._workloads = Workloads(engine, engine_pb2.WorkloadRef.NATIVE_TUNNEL)
        self._is_wanted = settings.pod_tunnel == names.TUNNEL_LABEL_HTTP
        self._uid = f"ztunnel/{settings.pod_namespace}/{settings.pod_name}"
        self._info = zds_pb2.WorkloadInfo(
            name=settings.pod_name, namespace=settings.pod_namespace, service_account=settings.service_account
        )

    async def serve(self) -> None:
        """Serve the pod, and try again for ever where its port is taken."""
        if self._is_wanted:
            await self._workloads.add(self._uid, self._info, os.open(_NETNS, os.O_RDONLY))
            await self._workloads.retry_pending()

    def started(self, uid: str, error: str) -> None:
        """Take the engine's answer; that for another workload is ignored."""
        self._workloads.started(uid, error)

    @property
    def pending(self) -> list[str]:
        """The pod's name until it is served."""
        return self._workloads.pending
