"""Admin pages on localhost, in the shape of Istio's ztunnel (``istioctl ztunnel-config`` reads ``/config_dump``)."""

import asyncio
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from aiohttp import web
from pydantic.alias_generators import to_camel

from meshapi.proto import engine_pb2
from meshengine import ConfigRejected, Engine
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

    async def authorize(request: web.Request) -> web.StreamResponse:
        try:
            verdict = await asyncio.to_thread(_verdict, engine, request.query)
        except KeyError as error:
            return web.Response(status=400, text=f"the parameter {error} is missing\n")
        except (ValueError, ConfigRejected) as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.json_response(verdict)

    return {"GET /config_dump": dump, "GET /authorize": authorize}


def _verdict(engine: Engine, query: Mapping[str, str]) -> dict[str, object]:
    """Return what policy says of a connection at this moment; see ``Engine.authorize``.

    Args:
        engine: decides.
        query: ``workload`` (uid), ``source`` and ``destination`` (addresses), ``port``; ``identity`` (SPIFFE URI) of
            the caller, absent for plain text.

    Raises:
        KeyError, ValueError: a parameter is missing, or cannot be read.
        ConfigRejected: no workload has the uid, or the identity is none.
    """
    answer = engine.authorize(
        query["workload"], query.get("identity"), query["source"], query["destination"], int(query["port"])
    )
    verdict = engine_pb2.Verdict.FromString(answer)
    return {
        "allowed": verdict.allowed,
        "policy": verdict.policy,
        "reason": verdict.reason,
        "dryRun": list(verdict.dry_run),
    }
