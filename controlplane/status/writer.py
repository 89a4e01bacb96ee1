"""Writes the conditions, only where they differ from what is there. Runs on the leader only.

Server-side apply owns exactly our conditions; those of others in the list stay (the definitions make it a list by
type). The existing status is read once, when a replica becomes leader; afterwards no other writer is expected.
"""

import asyncio
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from controlplane.status import conditions
from controlplane.status.outcomes import Outcome, Outcomes
from controlplane.workqueue import WorkQueue, named
from meshkit.kube import Client, Json, Key, Kind, KubeError, NotFound, PatchType, transitions
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.status")
_PAUSE_S: Final = 0.02
"""After each write: a change of the mesh may concern thousands of policies, and the API server has other clients."""


class StatusWriter:
    """Keeps the conditions. Run ``run`` as a task while this replica leads.

    Args:
        client: an open client.
        outcomes: the conditions that objects shall have.
        synced: waits until they are complete.
        clock: the present time.
    """

    def __init__(
        self,
        client: Client,
        outcomes: Outcomes,
        synced: asyncio.Event,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._outcomes = outcomes
        self._synced = synced
        self._clock = clock
        self._kinds = {kind.title: kind for kind in outcomes.by_kind}
        self._queue: WorkQueue[tuple[str, Key]] = WorkQueue("status of an object")
        self._held: dict[tuple[str, Key], list[Json]] = {}
        for kind, collection in outcomes.by_kind.items():
            self._queue.follow(collection, functools.partial(named, kind.title))
        self._queue.follow(outcomes.unusable, lambda name: name)

    async def run(self) -> NoReturn:
        """Write what differs until cancelled."""
        await self._synced.wait()
        for kind in self._outcomes.by_kind:
            await self._read(kind)
        for name in self._held:
            self._queue.add(name)
        await self._queue.run(self._reconcile)

    async def _read(self, kind: Kind) -> None:
        """Take in the conditions that objects of a kind have now."""
        backoff = Backoff(first_s=0.2, cap_s=15.0)
        while True:
            try:
                items = await self._client.items(kind)
            except NotFound:
                return
            except KubeError as error:
                _log.warning("statuses not known, will retry", kind=kind.name, reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                break
        for item in items:
            metadata = item["metadata"]
            present = (item.get("status") or {}).get("conditions") or ()
            ours = [condition for condition in present if condition.get("type") in conditions.TYPES]
            if ours:
                self._held[kind.title, (metadata.get("namespace", ""), metadata["name"])] = ours

    async def _reconcile(self, name: tuple[str, Key]) -> None:
        kind = self._kinds[name[0]]
        outcome = self._outcomes.by_kind[kind].find(name[1]) or self._outcomes.unusable.find(name)
        await self._write(kind, name, _rendered(outcome))

    async def _write(self, kind: Kind, key: tuple[str, Key], wanted: list[Json]) -> None:
        _, (namespace, name) = key
        held = self._held.get(key, [])
        if transitions.without_times(held) == transitions.without_times(wanted):
            return
        wanted = transitions.timed(wanted, held, transitions.stamp(self._clock()))
        status: Json = {"conditions": wanted} if wanted else {}
        body: Json = {"metadata": {"name": name, "namespace": namespace}, "status": status}
        self._held.pop(key, None)
        try:
            await self._client.patch(kind, name, body, namespace, patch_type=PatchType.APPLY, subresource="status")
        except NotFound:
            return  # deleted: nothing is left to write to
        except BaseException:
            if held:
                self._held[key] = held
            raise
        if wanted:
            self._held[key] = wanted
        await asyncio.sleep(_PAUSE_S)


def _rendered(outcome: Outcome | None) -> list[Json]:
    if outcome is None:
        return []
    return [
        transitions.condition(one.type, one.accepted, one.reason, one.message, outcome.generation)
        for one in outcome.conditions
    ]
