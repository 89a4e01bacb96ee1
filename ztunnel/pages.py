"""Admin pages on localhost, in the shape of Istio's ztunnel (``istioctl ztunnel-config`` reads ``/config_dump``)."""

import asyncio
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from aiohttp import web
from pydantic.alias_generators import to_camel

from meshengine import Engine
from meshkit import admin
from ztunnel.settings import ZtunnelSettings

_SECTIONS: Final = ("workloads", "services", "policies", "certificates", "workloadState")


def config_dump(engine: Engine, settings: ZtunnelSettings) -> str:
    """Return all that is known, as one JSON document; the engine's sections are taken over as they are."""
    parts = [f'"{section}":{engine.dump(section)}' for section in _SECTIONS]
    parts.append('"stagedServices":{}')
    config = {to_camel(name): value for name, value in settings.model_dump(mode="json").items()}
    parts.append(f'"config":{json.dumps(config)}')
    parts.append(f'"version":{{"version":"{version("culvert")}"}}')
    return "{" + ",".join(parts) + "}"


def routes(engine: Engine, settings: ZtunnelSettings) -> Mapping[str, admin.Handler]:
    """Return the handlers by route, beside those of every proxy (``meshproxy.admin``)."""

    async def dump(_: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread(config_dump, engine, settings)
        return web.Response(text=text, content_type="application/json")

    return {"GET /config_dump": dump}
