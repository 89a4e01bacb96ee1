"""What a scrape of the pod gets: Envoy's statistics and this process's own, in one text.

Istio's standard metrics come out of stock Envoy with its prefix (``envoy_istio_requests_total``); dashboards ask for
them without (specification of ``envoy.access_loggers.stats``: a stat prefix is put behind Envoy's own).
"""

import re
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from meshkit import metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIXED: Final = re.compile(rb"^(# (?:TYPE|HELP) )?envoy_(?=istio_)", re.MULTILINE)


def merged(envoy: bytes, own: CollectorRegistry) -> bytes:
    """Return both texts as one."""
    text = _PREFIXED.sub(rb"\1", envoy)
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text + generate_latest(own)


def source(crashes: Callable[[], int], connected: Callable[[], bool]) -> metrics.Source:
    """Return what the host counts."""
    return lambda: [
        metrics.counter("culvert_waypoint_envoy_crashes", "Times that Envoy has ended by itself", crashes()),
        metrics.gauge(
            "culvert_waypoint_discovery_connected",
            "Whether a discovery stream is open to the control plane",
            int(connected()),
        ),
    ]
