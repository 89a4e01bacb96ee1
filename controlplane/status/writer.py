"""Writes the conditions, only where they differ from what is there. Runs on the leader only.

Server-side apply owns exactly our condition; those of others in the list stay (the definitions make it a list by
type). The existing status is read once, when a replica becomes leader; afterwards no other writer is expected.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from controlplane.graph.index import Key
from controlplane.inputs.mesh import MeshContext
from controlplane.status import conditions
from controlplane.status.conditions import Condition
from controlplane.workqueue import WorkQueue
from meshapi.errors import DataError
from meshapi.resources import base
from meshkit.kube import Client, Informer, Json, Kind, KubeError, NotFound, PatchType
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.status")
_PAUSE_S: Final = 0.02
"""After each write: a change of the mesh may concern thousands of policies, and the API server has other clients."""


@dataclass(frozen=True, slots=True)
class Source:
    """One kind whose objects get a condition.

    Attributes:
        informer: the objects.
        evaluate: returns the condition of an object; ``None`` for no condition.
        substituted: invalid objects that have a fail-closed substitute, and the reason.
    """

    informer: "Informer[Any]"
    evaluate: Callable[[Any, MeshContext], Condition | None]
    substituted: Mapping[Key, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What the objects are."""
        return self.informer.kind


class StatusWriter:
    """Keeps the conditions. Run ``run`` as a task while this replica leads."""

    def __init__(
        self,
        client: Client,
        *sources: Source,
        mesh: Callable[[], MeshContext],
        discovers: Callable[[str], bool] = lambda _: True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._sources = {source.kind.plural: source for source in sources}
        self._mesh = mesh
        self._discovers = discovers
        self._clock = clock
        self._due: WorkQueue[tuple[str, Key]] = WorkQueue("status of a policy")
        self._held: dict[tuple[str, Key], Json] = {}
        self._refused: dict[tuple[str, Key], str] = {}
        for source in sources:
            self._follow(source)

    def mesh_changed(self) -> None:
        """Look at everything again: what a policy means depends on the mesh."""
        for plural, source in self._sources.items():
            for item in source.informer:
                self._due.add((plural, item.key))

    async def run(self) -> NoReturn:
        """Put right what is due until cancelled."""
        for source in self._sources.values():
            await source.informer.wait_synced()
            await self._read(source)
        self.mesh_changed()
        for refused in self._refused:
            self._due.add(refused)
        await self._due.run(self._put_right)

    def _follow(self, source: Source) -> None:
        plural = source.kind.plural

        def changed(old: base.Object | None, new: base.Object | None) -> None:
            item = new if new is not None else old
            if item is not None:
                self._refused.pop((plural, item.key), None)
                self._due.add((plural, item.key))

        def refused(key: Key, error: DataError) -> None:
            self._refused[plural, key] = str(error)
            self._due.add((plural, key))

        source.informer.add_handler(changed)
        source.informer.add_refusal_handler(refused)

    async def _read(self, source: Source) -> None:
        """Take in the conditions that objects of a kind have now."""
        backoff = Backoff(first_s=0.2, cap_s=15.0)
        while True:
            try:
                items = await self._client.items(source.kind)
            except NotFound:
                return
            except KubeError as error:
                _log.warning("statuses not known, will retry", kind=source.kind.name, reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                break
        for item in items:
            self._note(source.kind.plural, item)

    async def _put_right(self, due: tuple[str, Key]) -> None:
        plural, (namespace, name) = due
        source = self._sources[plural]
        item = source.informer.find(name, namespace)
        if due in self._refused:
            found = await self._client.find(source.kind, name, namespace)
            generation = int((found or {}).get("metadata", {}).get("generation", 0))
            wanted = conditions.of_refused(self._refused[due]) if found is not None else None
        else:
            generation = item.metadata.generation if item is not None else 0
            wanted = self._judge(source, item) if item is not None else None
        if item is None and wanted is None:
            self._held.pop(due, None)
            self._refused.pop(due, None)
            return
        await self._write(source.kind, due, _rendered(wanted, generation))

    def _judge(self, source: Source, item: base.Object) -> Condition | None:
        if not self._discovers(item.metadata.namespace):
            return None
        reason = source.substituted.get(item.key)
        return source.evaluate(item, self._mesh()) if reason is None else conditions.of_replaced(reason)

    async def _write(self, kind: Kind, due: tuple[str, Key], wanted: Json | None) -> None:
        _, (namespace, name) = due
        held = self._held.get(due)
        if _without_time(held) == _without_time(wanted):
            return
        status: Json = {}
        if wanted is not None:
            is_same = held is not None and held.get("status") == wanted["status"]
            since = held["lastTransitionTime"] if is_same and held is not None else None
            wanted["lastTransitionTime"] = since or self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")
            status = {"conditions": [wanted]}
        body: Json = {"metadata": {"name": name, "namespace": namespace}, "status": status}
        try:
            await self._client.patch(kind, name, body, namespace, patch_type=PatchType.APPLY, subresource="status")
        except NotFound:
            return  # deleted meanwhile; the informer reports it
        self._held.pop(due, None)
        if wanted is not None:
            self._held[due] = wanted
        await asyncio.sleep(_PAUSE_S)

    def _note(self, plural: str, item: Json) -> None:
        metadata = item["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        for condition in (item.get("status") or {}).get("conditions") or ():
            if condition.get("type") == conditions.TYPE:
                self._held[plural, key] = condition


def _rendered(condition: Condition | None, generation: int) -> Json | None:
    if condition is None:
        return None
    return {
        "type": conditions.TYPE,
        "status": "True" if condition.accepted else "False",
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
    }


def _without_time(condition: Json | None) -> Json | None:
    return condition and {name: value for name, value in condition.items() if name != "lastTransitionTime"}
