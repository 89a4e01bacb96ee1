"""Answers the API server's requests for reviews: ``POST /validate``, over TLS."""

from aiohttp import web

from controlplane.metrics import Metrics
from controlplane.webhook.review import BadReview, review
from meshkit.admin import Handler


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
