"""Kubernetes Events of the control plane. Written by the leader only.

An Event's name is made of the object's UID and the message, so every replica and every restart names the same one; one
that exists is counted up (``series``) instead of created again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from controlplane.ambient.model import Model
from controlplane.inputs.mesh_report import MeshReport
from controlplane.inputs.rejections import Name
from controlplane.inputs.sources import Rejection
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshapi.errors import brief
from meshkit.kube import Client, Conflict, Json, Kind, kinds

_CONTROLLER: Final = "culvert.io/control-plane"
_KINDS: Final = {"pods": kinds.POD, "services": kinds.SERVICE, "slices": kinds.ENDPOINT_SLICE}
"""Kinds of Kubernetes' own that resources are made of, by collection: what proxies refuse of them is an Event, because
the right to write the status of a pod or slice would be the right to change where its traffic goes."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is reported.

    Attributes:
        reason: one word for machines.
        action: what was done when it was found.
        note: a sentence for people.
    """

    reason: str
    action: str
    note: str


class EventWriter:
    """Writes Events.

    Args:
        client: an open client.
        instance: name of this replica.
        clock: the present time.
    """

    def __init__(
        self, client: Client, *, instance: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._instance = instance
        self._clock = clock

    async def write(self, kind: Kind, namespace: str, name: str, event: Event) -> None:
        """Write an Event about an object; nothing for one that is gone. Raises ``KubeError``."""
        regarding = await self._client.find(kind, name, namespace)
        if regarding is None:
            return
        uid = str(regarding["metadata"].get("uid", ""))
        body = self._body(kind, namespace, name, uid, event)
        try:
            await self._client.create(kinds.EVENT_V1, body, namespace)
        except Conflict:
            await self._count_up(namespace, body["metadata"]["name"])

    async def _count_up(self, namespace: str, name: str) -> None:
        held = await self._client.find(kinds.EVENT_V1, name, namespace)
        count = ((held or {}).get("series") or {}).get("count", 1)
        series = {"count": count + 1, "lastObservedTime": self._now()}
        await self._client.patch(kinds.EVENT_V1, name, {"series": series}, namespace)

    def _body(self, kind: Kind, namespace: str, name: str, uid: str, event: Event) -> Json:
        digest = hashlib.blake2b(f"{uid}/{event.note}".encode(), digest_size=8).hexdigest()
        return {
            "metadata": {"name": f"{name}.{digest}", "namespace": namespace},
            "eventTime": self._now(),
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance,
            "action": event.action,
            "reason": event.reason,
            "type": "Warning",
            "note": brief(event.note),
            "regarding": {
                "apiVersion": kind.api_version,
                "kind": kind.name,
                "namespace": namespace,
                "name": name,
                "uid": uid,
            },
        }

    def _now(self) -> str:
        return self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class MeshEvents:
    """Events on the config map of the mesh configuration. Run ``run`` as a task while this replica leads."""

    def __init__(self, writer: EventWriter, report: MeshReport, *, namespace: str) -> None:
        self._writer = writer
        self._report = report
        self._namespace = namespace
        self._queue: WorkQueue[str] = WorkQueue("event on the mesh configuration")
        report.on_message(self._queue.add)

    async def run(self) -> NoReturn:
        """Write the messages that hold now, then new ones, until cancelled."""
        for message in self._report.messages:
            self._queue.add(message)
        await self._queue.run(self._write)

    async def _write(self, message: str) -> None:
        if message in self._report.messages:  # else it was corrected in the meantime
            event = Event("MeshConfigField", "ReadMeshConfig", message)
            await self._writer.write(kinds.CONFIG_MAP, self._namespace, names.MESH_CONFIGMAP, event)


class RejectionEvents:
    """Events on pods, services and endpoint slices whose resources proxies refuse. Run as ``MeshEvents``."""

    def __init__(self, writer: EventWriter, model: Model) -> None:
        self._writer = writer
        self._model = model
        self._queue: WorkQueue[Name] = WorkQueue("event on a rejected object")
        model.inputs.rejections.add_handler(self._changed)

    async def run(self) -> NoReturn:
        """Write Events for what is refused now, then for what is refused later, until cancelled."""
        present = self._model.inputs.rejections.keys()
        for name in present:
            self._queue.add(name)
        await self._queue.run(self._write)

    def _changed(self, name: Name, old: Rejection | None, new: Rejection | None) -> None:
        if new is not None and (old is None or old.reason != new.reason):
            self._queue.add(name)

    async def _write(self, name: Name) -> None:
        rejection = self._model.inputs.rejections.find(name)
        maker = self._model.maker(*name)
        kind = _KINDS.get(maker[0]) if maker is not None else None
        if rejection is None or maker is None or kind is None:
            return
        note = f"{name[1]}: rejected by {rejection.proxy}: {rejection.reason}; the last good form stays in effect"
        namespace, object_name = maker[1]
        await self._writer.write(kind, namespace, object_name, Event("RejectedByProxy", "Push", note))
