"""Kubernetes Events on the config map of the mesh configuration. Runs on the leader only.

An Event's name is made of the config map's UID and the message, so every replica and every restart names the same one;
one that exists is counted up (``series``) instead of created again.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from controlplane.inputs.mesh_report import MeshReport
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshapi.errors import brief
from meshkit.kube import Client, Conflict, Json, kinds

_CONTROLLER: Final = "culvert.io/control-plane"
_REASON: Final = "MeshConfigField"
_ACTION: Final = "ReadMeshConfig"


class MeshEvents:
    """Writes an Event for each message of the report. Run ``run`` as a task while this replica leads."""

    def __init__(
        self,
        client: Client,
        report: MeshReport,
        *,
        namespace: str,
        instance: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._report = report
        self._namespace = namespace
        self._instance = instance
        self._clock = clock
        self._queue: WorkQueue[str] = WorkQueue("event on the mesh configuration")
        report.on_message(self._queue.add)

    async def run(self) -> NoReturn:
        """Write the messages that hold now, then new ones, until cancelled."""
        for message in self._report.messages:
            self._queue.add(message)
        await self._queue.run(self._write)

    async def _write(self, message: str) -> None:
        if message not in self._report.messages:
            return  # corrected in the meantime
        config_map = await self._client.find(kinds.CONFIG_MAP, names.MESH_CONFIGMAP, self._namespace)
        if config_map is None:
            return
        uid = str(config_map["metadata"].get("uid", ""))
        try:
            await self._client.create(kinds.EVENT_V1, self._event(uid, message), self._namespace)
        except Conflict:
            await self._count_up(_name(uid, message))

    async def _count_up(self, name: str) -> None:
        held = await self._client.find(kinds.EVENT_V1, name, self._namespace)
        count = ((held or {}).get("series") or {}).get("count", 1)
        series = {"count": count + 1, "lastObservedTime": self._now()}
        await self._client.patch(kinds.EVENT_V1, name, {"series": series}, self._namespace)

    def _event(self, uid: str, message: str) -> Json:
        return {
            "metadata": {"name": _name(uid, message), "namespace": self._namespace},
            "eventTime": self._now(),
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance,
            "action": _ACTION,
            "reason": _REASON,
            "type": "Warning",
            "note": brief(message),
            "regarding": {
                "apiVersion": kinds.CONFIG_MAP.api_version,
                "kind": kinds.CONFIG_MAP.name,
                "namespace": self._namespace,
                "name": names.MESH_CONFIGMAP,
                "uid": uid,
            },
        }

    def _now(self) -> str:
        return self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _name(uid: str, message: str) -> str:
    return f"{names.MESH_CONFIGMAP}.{hashlib.blake2b(f'{uid}/{message}'.encode(), digest_size=8).hexdigest()}"
