"""Lists in the status of objects to which several controllers write: ``parents`` of routes, ``ancestors`` of policies.

The list is one value to the API server. Entries of others are kept, and a write that another one has overtaken is made
again.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from controlplane.graph.collection import Collection
from controlplane.inputs.verdicts import Verdict
from controlplane.workqueue import WorkQueue, named
from meshapi import names
from meshkit.kube import Client, Json, Key, Kind, PatchType, transitions


@dataclass(frozen=True, slots=True)
class SharedList:
    """The entries that objects of a kind shall have.

    Attributes:
        kind: of the objects.
        entries: by object, without times.
        field: of the status.
        reference: field of an entry that tells it from the others.
    """

    kind: Kind
    entries: Collection[Key, tuple[Json, ...]]
    field: str
    reference: str


class SharedListWriter:
    """Writes the entries. Run ``run`` as a task while this replica leads.

    Args:
        client: an open client.
        lists: the entries that objects shall have.
        synced: waits until they are complete.
        clock: the present time.
    """

    def __init__(
        self,
        client: Client,
        lists: Iterable[SharedList],
        synced: asyncio.Event,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._lists = {one.kind.name: one for one in lists}
        self._synced = synced
        self._clock = clock
        self._queue: WorkQueue[tuple[str, Key]] = WorkQueue("list in the status of an object")
        for name, one in self._lists.items():
            self._queue.follow(one.entries, functools.partial(named, name))

    async def run(self) -> NoReturn:
        """Write what differs until cancelled."""
        await self._synced.wait()
        await self._queue.run(self._reconcile)

    async def _reconcile(self, name: tuple[str, Key]) -> None:
        one, (namespace, item_name) = self._lists[name[0]], name[1]
        item = await self._client.find(one.kind, item_name, namespace)
        if item is None:
            return
        present = (item.get("status") or {}).get(one.field) or []
        ours = [entry for entry in present if entry.get("controllerName") in names.ROUTE_CONTROLLERS]
        wanted = one.entries.find(name[1]) or ()
        if _comparable(ours) == _comparable(wanted):
            return
        others = [entry for entry in present if entry.get("controllerName") not in names.ROUTE_CONTROLLERS]
        timed = [self._timed(entry, ours, one.reference) for entry in wanted]
        # With the version that was read: the server refuses the write if another controller has changed the list since.
        metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
        body: Json = {"metadata": metadata, "status": {one.field: [*others, *timed]}}
        await self._client.patch(one.kind, item_name, body, namespace, patch_type=PatchType.MERGE, subresource="status")

    def _timed(self, wanted: Json, present: Iterable[Json], reference: str) -> Json:
        """Return an entry with times: those of conditions that stay what they are do not change."""
        now = transitions.stamp(self._clock())
        held = next((one for one in present if one.get(reference) == wanted[reference]), {})
        return {**wanted, "conditions": transitions.timed(wanted["conditions"], held.get("conditions") or (), now)}


def condition(kind: str, verdict: Verdict, generation: int) -> Json:
    """Return a condition of an entry, without its time."""
    return transitions.condition(kind, verdict.is_true, verdict.reason, verdict.message, generation)


def _comparable(entries: Iterable[Json]) -> list[Json]:
    return [{**entry, "conditions": transitions.without_times(entry.get("conditions") or ())} for entry in entries]
