"""Admin pages on localhost, in the shape of Istio's ztunnel (``istioctl ztunnel-config`` reads ``/config_dump``)."""

import asyncio
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from aiohttp import web
from pydantic.alias_generators import to_camel

from meshengine import Engine
from meshkit import admin, log
from ztunnel.settings import ZtunnelSettings

_ISTIO_LEVELS: Final = {"trace": log.Level.DEBUG, "warning": log.Level.WARN, "critical": log.Level.ERROR}
_SECTIONS = ("workloads", "services", "policies", "certificates", "workloadState")


def config_dump(engine: Engine, settings: ZtunnelSettings) -> str:
    """Return all that is known, as one JSON document; the engine's sections are taken over as they are."""
    parts = [f'"{section}":{engine.dump(section)}' for section in _SECTIONS]
    parts.append('"stagedServices":{}')
    config = {to_camel(name): value for name, value in settings.model_dump(mode="json").items()}
    parts.append(f'"config":{json.dumps(config)}')
    parts.append(f'"version":{{"version":"{version("culvert")}"}}')
    return "{" + ",".join(parts) + "}"


def routes(engine: Engine, settings: ZtunnelSettings, quit_requested: asyncio.Event) -> Mapping[str, admin.Handler]:
    """Return the handlers by route."""
    level = settings.log_level

    async def dump(_: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread(config_dump, engine, settings)
        return web.Response(text=text, content_type="application/json")

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
        quit_requested.set()
        return web.Response(text="shutdown now\n")

    return {"GET /config_dump": dump, "POST /logging": logging, "POST /quitquitquit": quit_now}


def _level(name: str) -> log.Level:
    """Return a level by our name or Istio's; raises ``ValueError``."""
    return _ISTIO_LEVELS.get(name) or log.Level(name)
