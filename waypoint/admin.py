"""Envoy's admin pages, as far as the host reads them. Envoy's documentation, "Administration interface"."""

from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
_STATE: Final = "server.state"
_READY_STATS: Final = (
    "cluster_manager.cds.update_success",
    "listener_manager.lds.update_success",
    "listener_manager.workers_started",
    _STATE,
)
_LIVE: Final = 0
"""Of ``server.state``."""


class EnvoyUnavailable(Exception):
    """Envoy's admin pages cannot be read."""


@dataclass(frozen=True, slots=True)
class State:
    """How far Envoy is.

    Attributes:
        pending: what it waits for; none: it serves the configuration that it was given.
    """

    pending: tuple[str, ...]


class EnvoyAdmin:
    """A client of the admin pages; open it with ``async with``. Every method raises ``EnvoyUnavailable``."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def state(self) -> State:
        """Return whether Envoy serves, and has had clusters and listeners of the control plane."""
        stats = await self.counters(f"^({'|'.join(_READY_STATS)})$")
        waits = {
            "clusters": not stats.get("cluster_manager.cds.update_success"),
            "listeners": not stats.get("listener_manager.lds.update_success"),
            "workers of Envoy": not stats.get("listener_manager.workers_started"),
            "Envoy": stats.get(_STATE) != _LIVE,
        }
        return State(tuple(name for name, pending in waits.items() if pending))

    async def counters(self, pattern: str) -> dict[str, int]:
        """Return counters and gauges whose names match a regular expression."""
        text = (await self.get("/stats", filter=pattern)).decode()
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def get(self, path: str, **query: str) -> bytes:
        """Return a page."""
        return await self._request("GET", path, query)

    async def post(self, path: str, **query: str) -> None:
        """Make Envoy do something."""
        await self._request("POST", path, query)

    async def _request(self, method: str, path: str, query: dict[str, str]) -> bytes:
        if self._session is None:
            raise EnvoyUnavailable("the client is not open")
        try:
            async with self._session.request(method, self._base + path, params=query) as answer:
                body = await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise EnvoyUnavailable(f"{method} {path}: {type(error).__name__}: {error}") from error
        if answer.status != 200:
            raise EnvoyUnavailable(f"{method} {path}: status {answer.status}")
        return body
