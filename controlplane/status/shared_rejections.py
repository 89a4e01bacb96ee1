"""What proxies refuse, shared between the replicas of the control plane in a config map, so that the leader knows all.

Each replica owns one key, its own name, by server-side apply. It writes when something changes, and again every minute
while there is anything: entries of a replica that has died grow old and do not count.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from controlplane.inputs.rejections import Name, Rejections
from controlplane.inputs.sources import Rejection
from meshapi import names
from meshapi.errors import DataError, brief
from meshkit.kube import Client, Informer, Json, KubeError, PatchType, Selection, kinds
from meshkit.log import logger
from meshkit.tasks import Backoff, happens

_log = logger("controlplane.status")
_MAX_ENTRIES: Final = 200
"""Entries of one replica: a config map has at most 1 MiB."""
_RENEW_S: Final = 60.0
_MAX_AGE: Final = timedelta(seconds=3 * _RENEW_S)


@dataclass(frozen=True, slots=True)
class Published:
    """What one replica has published."""

    at: datetime
    rejections: Mapping[Name, Rejection]


class SharedRejections:
    """Publishes this replica's rejections and takes in those of the others.

    Run ``run`` and ``informer.run`` as tasks.
    """

    def __init__(
        self,
        client: Client,
        rejections: Rejections,
        *,
        namespace: str,
        instance: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._rejections = rejections
        self._namespace = namespace
        self._instance = instance
        self._clock = clock
        self._wake = asyncio.Event()
        self._seen: frozenset[str] = frozenset()
        only = Selection(namespace=namespace, fields=f"metadata.name={names.REJECTIONS_CONFIGMAP}")
        self.informer: Informer[dict[str, Published]] = Informer(client, kinds.CONFIG_MAP, _read, selection=only)
        self.informer.add_handler(self._on_published)
        rejections.on_own_change(self._wake.set)

    async def run(self) -> NoReturn:
        """Publish until cancelled."""
        backoff = Backoff(first_s=0.2, cap_s=15.0)
        published: dict[Name, Rejection] = {}
        while True:
            own = self._rejections.own()
            if own or published:
                try:
                    await self._publish(own)
                except KubeError as error:
                    _log.warning("rejections not shared, will retry", reason=str(error))
                    await asyncio.sleep(backoff.next())
                    continue
                published = own
                backoff.reset()
            if not await happens(self._wake, _RENEW_S):
                self._on_published(None, self.informer.find(names.REJECTIONS_CONFIGMAP, self._namespace))
            self._wake.clear()

    async def _publish(self, own: Mapping[Name, Rejection]) -> None:
        entries = [
            {"type": name[0], "name": name[1], "proxy": item.proxy, "reason": brief(item.reason), "others": item.others}
            for name, item in sorted(own.items())[:_MAX_ENTRIES]
        ]
        text = json.dumps({"at": self._clock().isoformat(), "rejections": entries})
        body: Json = {
            "metadata": {"name": names.REJECTIONS_CONFIGMAP, "namespace": self._namespace},
            "data": {self._instance: text} if entries else {},
        }
        await self._client.patch(
            kinds.CONFIG_MAP,
            names.REJECTIONS_CONFIGMAP,
            body,
            self._namespace,
            patch_type=PatchType.APPLY,
            manager=f"{names.FIELD_MANAGER}-{self._instance}",
        )

    def _on_published(self, _: dict[str, Published] | None, new: dict[str, Published] | None) -> None:
        oldest = self._clock() - _MAX_AGE
        others = {
            instance: item.rejections
            for instance, item in (new or {}).items()
            if instance != self._instance and item.at > oldest
        }
        for instance in self._seen - others.keys():
            self._rejections.put_replica(instance, {})
        for instance, rejections in others.items():
            self._rejections.put_replica(instance, rejections)
        self._seen = frozenset(others)


def _read(item: Json) -> dict[str, Published]:
    """Return what each replica has published. Raises ``DataError`` for a config map that is not ours."""
    result = {}
    for instance, text in (item.get("data") or {}).items():
        try:
            document = json.loads(text)
            result[instance] = Published(
                datetime.fromisoformat(document["at"]),
                {
                    (str(one["type"]), str(one["name"])): Rejection(
                        str(one["proxy"]), str(one["reason"]), others=bool(one["others"])
                    )
                    for one in document["rejections"]
                },
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"data.{instance}: not what a control plane writes: {error}") from error
    return result
