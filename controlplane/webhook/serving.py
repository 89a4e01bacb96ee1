"""Answers the API server's requests over TLS: reviews (``POST /validate``), and pods (``POST /inject``)."""

from collections.abc import Callable

from aiohttp import web

from controlplane.inputs.mesh import MeshContext
from controlplane.metrics import Metrics
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.webhook.injection import inject
from controlplane.webhook.review import BadReview, review
from meshkit.admin import Handler
from meshkit.log import logger

_log = logger("controlplane.webhook")


def validation(metrics: Metrics) -> Handler:
    """Return the handler; it counts what it lets through and what it refuses."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            found = review(await request.read())
        except BadReview as error:
            return web.Response(status=400, text=f"{error}\n")
        labels = (found.group, found.version, found.resource)
        if found.fault:
            metrics.validation_failed.labels(*labels, "invalid_resource").inc()
        else:
            metrics.validation_passed.labels(*labels).inc()
        return web.json_response(found.answer())

    return handle


def injection(mesh: Callable[[], MeshContext], defaults: ProxyDefaults) -> Handler:
    """Return the handler of pods that ask to be gateways.

    Args:
        mesh: returns the mesh as it is now.
        defaults: of the installation.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            found = inject(await request.read(), mesh(), defaults)
        except BadReview as error:
            return web.Response(status=400, text=f"{error}\n")
        if found.fault:
            _log.warning("a gateway's pod was refused", pod=found.pod, reason=found.fault)
        elif found.changes:
            _log.info("a pod becomes a gateway", pod=found.pod)
        return web.json_response(found.answer())

    return handle
