"""Admin pages of every proxy process, on localhost: its log level, and a request to end. Paths are Istio's."""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from meshkit import admin, log
from meshkit.settings import ProcessSettings

_ISTIO_LEVELS: Final = {"trace": log.Level.DEBUG, "warning": log.Level.WARN, "critical": log.Level.ERROR}


def routes(settings: ProcessSettings, stop: asyncio.Event) -> Mapping[str, admin.Handler]:
    """Return the handlers by route; ``/quitquitquit`` sets ``stop``."""
    level = settings.log_level

    async def logging(request: web.Request) -> web.StreamResponse:
        """Set the level to ``level``, or with ``reset`` to that of the settings; say which it is."""
        nonlocal level
        wanted = request.query.get("level", "")
        try:
            level = _level(wanted) if wanted else settings.log_level if "reset" in request.query else level
        except ValueError:
            return web.Response(status=400, text=f"level: {wanted!r} is none of {', '.join(log.Level)}\n")
        log.configure(level=level, log_format=settings.log_format)
        return web.Response(text=f"current log level is {level}\n")

    async def quit_now(_: web.Request) -> web.StreamResponse:
        stop.set()
        return web.Response(text="shutdown now\n")

    return {"POST /logging": logging, "POST /quitquitquit": quit_now}


def _level(name: str) -> log.Level:
    """Return a level by our name or Istio's; raises ``ValueError``."""
    return _ISTIO_LEVELS.get(name) or log.Level(name)
