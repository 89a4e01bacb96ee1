"""Makes a namespace's automatic waypoint, and removes it when no service has needed it for a while. Leader only.

The waypoint is a Gateway like a user's; ``controlplane.proxies.controller`` makes what runs for it. A service that no
longer needs it leaves it at once: when the retention ends, no new connection has gone through it for as long, and its
pods drain what is left. A Gateway of the name that does not have our label is a user's and is left alone.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from controlplane.graph.collection import Collection
from controlplane.waypoints.needs import Needs
from controlplane.waypoints.waypoint import Handles
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshapi.resources.gateway import Gateway
from meshkit.kube import Client, Json, Key, NotFound, PatchType, kinds, transitions
from meshkit.log import logger

_log = logger("controlplane.proxies.automatic")
_NAME: Final = names.AUTOMATIC_WAYPOINT


class AutomaticWaypoints:
    """Run ``run`` while this replica leads.

    Args:
        client: an open client.
        gateways: the Gateways of the mesh.
        needs: which services need a waypoint.
        retention_s: how long a waypoint stays after the last need.
        now: the present time.
    """

    def __init__(
        self,
        client: Client,
        gateways: Collection[Key, Gateway],
        needs: Needs,
        *,
        retention_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._gateways = gateways
        self._needs = needs
        self._retention_s = retention_s
        self._now = now
        self._due: WorkQueue[str] = WorkQueue("automatic waypoint")
        for collection in (needs.services, needs.entries):
            self._due.follow(collection, lambda key: key[0])
        gateways.add_handler(self._on_gateway)

    async def run(self) -> NoReturn:
        """Make and remove waypoints until cancelled."""
        for key in self._gateways.keys():  # noqa: SIM118  # a collection is no mapping
            self._due.add(key[0])
        await self._due.run(self._reconcile)

    def _on_gateway(self, key: Key, _: Gateway | None, __: Gateway | None) -> None:
        if key[1] == _NAME:
            self._due.add(key[0])

    async def _reconcile(self, namespace: str) -> None:
        reasons, held = self._needs.reasons(namespace), self._gateways.find((namespace, _NAME))
        if held is None:
            if reasons:
                await self._make(namespace, reasons)
            return
        if names.AUTOMATIC_WAYPOINT_LABEL not in held.metadata.labels or held.metadata.deletion_timestamp:
            return
        since = held.metadata.annotations.get(names.UNNEEDED_SINCE_ANNOTATION)
        if reasons:
            if since is not None:
                await self._note(namespace, None)
        elif since is None:
            await self._note(namespace, transitions.stamp(self._now()))
        else:
            await self._expire(namespace, since)

    async def _make(self, namespace: str, reasons: list[str]) -> None:
        try:
            await self._client.patch(kinds.GATEWAY, _NAME, _gateway(), namespace, patch_type=PatchType.APPLY)
        except NotFound:
            _log.warning("a waypoint is needed and cannot be made: its namespace or the Gateway API is missing",
                         namespace=namespace)  # fmt: skip
            return
        _log.info("made an automatic waypoint", namespace=namespace, reason=reasons[0], reasons=len(reasons))

    async def _note(self, namespace: str, since: str | None) -> None:
        """Write since when nothing needs the waypoint; ``None``: something does."""
        body: Json = {"metadata": {"annotations": {names.UNNEEDED_SINCE_ANNOTATION: since}}}
        await self._client.patch(kinds.GATEWAY, _NAME, body, namespace, patch_type=PatchType.MERGE)
        if since is not None:
            _log.info("nothing needs an automatic waypoint", namespace=namespace, removed_in_s=self._retention_s)

    async def _expire(self, namespace: str, since: str) -> None:
        """Remove the waypoint, or look again when its retention ends."""
        left = self._retention_s - self._age_s(since)
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._due.add, namespace)
            return
        with contextlib.suppress(NotFound):
            await self._client.delete(kinds.GATEWAY, _NAME, namespace)
        _log.info("removed an automatic waypoint", namespace=namespace)

    def _age_s(self, since: str) -> float:
        """Return how long ago a time was; one that cannot be read is long ago."""
        try:
            return (self._now() - datetime.fromisoformat(since)).total_seconds()
        except (ValueError, TypeError):
            return self._retention_s


def _gateway() -> Json:
    return {
        "metadata": {
            "name": _NAME,
            "labels": {names.WAYPOINT_FOR_LABEL: Handles.SERVICE.value, names.AUTOMATIC_WAYPOINT_LABEL: "true"},
        },
        "spec": {
            "gatewayClassName": names.WAYPOINT_CLASS,
            "listeners": [{"name": "mesh", "port": names.HBONE_PORT, "protocol": "HBONE"}],
        },
    }
