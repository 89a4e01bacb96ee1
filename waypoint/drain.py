"""The end of a waypoint: no client's request fails because the pod goes.

Rules, in order:

1.  Readiness fails at once, so that no endpoint list names the pod any more.
2.  Envoy is told to drain: it serves what comes, and answers each new stream with a GOAWAY for its connection, so that
    clients open the next one elsewhere. For ``minimum_drain_s`` this goes on whatever there is: lists of endpoints take
    a moment to arrive at clients.
3.  Streams that are open go on until they end, or until the time is over. Connections without a stream count for
    nothing: Envoy tells them nothing, and clients keep them for minutes after they have turned to other pods.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from meshkit.log import logger
from waypoint.admin import EnvoyAdmin, EnvoyUnavailable
from waypoint.settings import WaypointSettings

_log = logger("waypoint.drain")
_LOOK_S: Final = 0.2
_LISTENERS: Final = r"listener\..*\.downstream_cx_active"
_HTTP: Final = r"http\..*\.downstream_(cx|rq)_active"
_OF_WORKER: Final = ".worker_"
"""A listener's connections are counted once more for each worker."""
_OWN: Final = ("listener.admin.", "http.admin.", "http.stats.")
"""Our own connection, and those of scrapers, are no work."""


async def drain(admin: EnvoyAdmin, settings: WaypointSettings) -> None:
    """Return when Envoy has no work left, or when the time is over."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await admin.post("/healthcheck/fail")
        await admin.post("/drain_listeners", graceful="", skip_exit="")
    except EnvoyUnavailable as error:
        _log.warning("Envoy cannot be drained", reason=str(error))
        return
    _log.info("draining", timeout_s=settings.drain_s)
    left = await _wait(admin, settings, began)
    _log.info("drained", after_s=round(loop.time() - began, 2), streams_cut=left)


async def _wait(admin: EnvoyAdmin, settings: WaypointSettings, began: float) -> int:
    loop = asyncio.get_running_loop()
    while True:
        waited_s = loop.time() - began
        try:
            left = open_work(await admin.counters(f"^({_LISTENERS}|{_HTTP})$"), settings.prometheus_port)
        except EnvoyUnavailable:
            return 0
        if waited_s >= settings.drain_s or (not left and waited_s >= min(settings.minimum_drain_s, settings.drain_s)):
            return left
        await asyncio.sleep(_LOOK_S)


def open_work(stats: Mapping[str, int], prometheus_port: int) -> int:
    """Return how many streams are open, and connections that are not HTTP. Pure.

    Args:
        stats: Envoy's gauges of active connections and requests, by name.
        prometheus_port: of the listener that is none of the mesh's.
    """
    left_out = (f"_{prometheus_port}.", _OF_WORKER)
    counted = {
        name: count
        for name, count in stats.items()
        if not name.startswith(_OWN) and not any(part in name for part in left_out)
    }

    def total(start: str, end: str) -> int:
        return sum(count for name, count in counted.items() if name.startswith(start) and name.endswith(end))

    connections, over_http = total("listener.", "cx_active"), total("http.", "cx_active")
    return total("http.", "rq_active") + max(0, connections - over_http)
