"""Workloads, services and policies from the control plane to the engine."""

from collections.abc import Sequence

from meshengine import ConfigRejected, Engine
from meshkit.xds.client import Rejection


class MeshState:
    """Receives discovery resources and hands them on undecoded; the engine checks them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_update(
        self, type_url: str, upserts: list[tuple[str, str, bytes]], removes: list[str]
    ) -> Sequence[Rejection]:
        """Take resources; see ``meshkit.xds.client.Receiver``."""
        try:
            self._engine.apply(type_url, [(name, body) for name, _, body in upserts], removes)
        except ConfigRejected as error:
            _, _, rejected = error.args
            return [Rejection(name, f"{field}: {reason}" if field else reason) for name, field, reason in rejected]
        return []
