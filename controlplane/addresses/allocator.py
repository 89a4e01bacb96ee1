"""Gives hosts of ServiceEntries their addresses, in ``status.addresses``. Runs on the leader only.

The pool of addresses in use is read from the API when a replica begins to lead, and every entry is read again before
it is written, with its resource version: what the local copy of a watch says may be older than what the last leader
wrote. A second leader that does not know yet that it is none can so at most write what is put right afterwards.
"""

import asyncio
from typing import Final, NoReturn

from controlplane.addresses.pool import Pool, by_host
from controlplane.ambient import service_entries
from controlplane.workqueue import WorkQueue
from meshapi.errors import DataError, brief
from meshapi.resources import base
from meshapi.resources.networking import ServiceEntry
from meshkit.kube import Client, Informer, Json, Key, KubeError, NotFound, kinds
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.addresses")
_KIND: Final = kinds.SERVICE_ENTRY


class Allocator:
    """Keeps the addresses. Run ``run`` as a task while this replica leads."""

    def __init__(self, client: Client, informer: "Informer[ServiceEntry]") -> None:
        self._client = client
        self._informer = informer
        self._pool = Pool()
        self._due: WorkQueue[Key] = WorkQueue("addresses of a ServiceEntry")
        informer.add_handler(self._on_entry)

    async def run(self) -> NoReturn:
        """Put right what is due until cancelled."""
        await self._informer.wait_synced()
        self._pool = await self._in_use()
        for entry in self._informer:
            self._due.add(entry.key)
        await self._due.run(self._put_right)

    async def _in_use(self) -> Pool:
        backoff = Backoff(first_s=0.2, cap_s=15.0)
        while True:
            try:
                found = await self._client.items(_KIND)
            except NotFound:
                return Pool()  # the kind is not installed; the informer reports when it is
            except KubeError as error:
                _log.warning("addresses in use not known, will retry", reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                break
        pool = Pool()
        # The oldest first: should two have the same address, it keeps it.
        for item in sorted(found, key=lambda one: str(one["metadata"].get("creationTimestamp", ""))):
            entry = _read(item)
            if entry is not None:
                pool.hold(entry.key, _given(entry), entry.spec.addresses)
        return pool

    async def _put_right(self, key: Key) -> None:
        namespace, name = key
        item = await self._client.find(_KIND, name, namespace)
        if item is None:
            self._pool.release(key)
            return
        entry = _read(item)
        if entry is None:
            return  # what the last good form has stays in use
        self._pool.hold(key, _given(entry), entry.spec.addresses)
        wanted = service_entries.wants_addresses(entry)
        given = self._pool.assign(key, wanted)
        if by_host(given) == by_host(_given(entry)):
            return
        if len(given) < 2 * len(wanted):
            _log.error("no address left for a host", entry="/".join(key))
        body: Json = {
            "metadata": {"resourceVersion": item["metadata"]["resourceVersion"]},
            "status": {"addresses": [{"value": address, "host": host} for address, host in given]},
        }
        await self._client.patch(_KIND, name, body, namespace, subresource="status")
        _log.info("addresses given", entry="/".join(key), addresses=brief(", ".join(address for address, _ in given)))

    def _on_entry(self, old: ServiceEntry | None, new: ServiceEntry | None) -> None:
        """Enqueue a changed entry, unless it has all its addresses."""
        if new is None:
            if old is not None:
                self._due.add(old.key)
            return
        held, given = by_host(self._pool.held(new.key)), by_host(_given(new))
        if held != given or held.keys() != set(service_entries.wants_addresses(new)):
            self._due.add(new.key)


def _given(entry: ServiceEntry) -> list[tuple[str, str]]:
    return [(item.value, item.host) for item in entry.status.addresses if item.value and item.host]


def _read(item: Json) -> ServiceEntry | None:
    try:
        return base.read(ServiceEntry, item)
    except DataError:
        return None
