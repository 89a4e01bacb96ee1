"""Workloads, services and policies from the control plane to the engine."""

from collections.abc import Sequence
from typing import Final

from meshapi import names
from meshengine import ConfigRejected, Engine
from meshkit.xds.client import Rejection
from meshproxy.snapshot import Snapshot, Upsert

SNAPSHOT_TYPES: Final = (names.AUTHORIZATION_TYPE, names.ADDRESS_TYPE, names.MESH_CONFIG_TYPE)
"""Types that are kept in the snapshot. Policies come first: no workload is known before what protects it."""


class XdsReceiver:
    """Receives discovery resources and hands them on undecoded; the engine checks them.

    What is in force is noted for the snapshot, where there is one. A refused resource is not: its last good version
    stays in the engine, so it stays there too.
    """

    def __init__(self, engine: Engine, snapshot: Snapshot | None = None) -> None:
        self._engine = engine
        self._snapshot = snapshot

    async def on_update(self, type_url: str, upserts: list[Upsert], removes: list[str]) -> Sequence[Rejection]:
        """Take resources; see ``meshkit.xds.client.Receiver``."""
        rejections = self._apply(type_url, upserts, removes)
        if self._snapshot is not None:
            refused = {rejection.name for rejection in rejections}
            self._snapshot.note(type_url, (one for one in upserts if one[0] not in refused), removes)
        return rejections

    def restore(self, type_url: str, upserts: list[Upsert]) -> list[str]:
        """Take resources of a snapshot; see ``meshproxy.snapshot.Take``."""
        return [rejection.name for rejection in self._apply(type_url, upserts, [])]

    def _apply(self, type_url: str, upserts: list[Upsert], removes: list[str]) -> list[Rejection]:
        try:
            self._engine.apply(type_url, [(name, body) for name, _, body in upserts], removes)
        except ConfigRejected as error:
            return [
                Rejection(one.name, f"{one.field}: {one.reason}" if one.field else one.reason) for one in error.rejected
            ]
        return []
