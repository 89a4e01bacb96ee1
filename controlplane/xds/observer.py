"""What happens on discovery streams, as metrics, log lines and the ``/debug/syncz`` page."""

import json
from collections.abc import Collection, Mapping

from controlplane.inputs.rejections import Rejections
from controlplane.metrics import Metrics
from meshapi import names
from meshkit.log import logger
from meshkit.xds.peer import Peer, Timing
from meshkit.xds.subscription import Delta

_log = logger("controlplane.xds")
_SHORT = {names.ADDRESS_TYPE: "wds", names.AUTHORIZATION_TYPE: "wads", names.MESH_CONFIG_TYPE: "mesh"}
"""Type names as in Istio's metrics."""


class StreamObserver:
    """A ``meshkit.xds.peer.Observer``."""

    def __init__(self, metrics: Metrics, version: str, rejections: Rejections) -> None:
        self._metrics = metrics
        self._rejections = rejections
        self._connected = metrics.connected.labels(version)
        self._peers: dict[int, Peer] = {}
        for short in _SHORT.values():  # series that are there from the start, at 0
            metrics.pushes.labels(short)
            metrics.rejects.labels(short)

    def connected(self, peer: Peer) -> None:
        """Count a stream."""
        self._peers[id(peer)] = peer
        self._connected.inc()
        _log.info("proxy connected", identity=peer.identity)

    def disconnected(self, peer: Peer) -> None:
        """Forget a stream and what it refused."""
        self._peers.pop(id(peer), None)
        self._connected.dec()
        self._rejections.drop_peer(peer)
        _log.info("proxy disconnected", proxy=peer.node_id, identity=peer.identity)

    def sent(self, peer: Peer, type_url: str, delta: Delta, timing: Timing) -> None:
        """Count a response."""
        short = _SHORT.get(type_url, type_url)
        self._metrics.pushes.labels(short).inc()
        self._metrics.size.labels(short).observe(sum(len(item.body) for item in delta.upserts))
        self._metrics.send_time.observe(timing.write_s)
        if timing.queued_s is not None:
            self._metrics.queue_time.observe(timing.queued_s)
            self._metrics.convergence.observe(timing.queued_s + timing.write_s)
        _log.debug("pushed", proxy=peer.node_id, type=short, resources=len(delta.upserts), removed=len(delta.removes))

    def refused(self, peer: Peer, type_url: str, resources: list[str], reason: str) -> None:
        """Log and count a NACK; the proxy's reason names the resource, the list is what the response held."""
        short = _SHORT.get(type_url, type_url)
        self._metrics.rejects.labels(short).inc()
        shown = ", ".join(resources[:5]) + (f" and {len(resources) - 5} more" if len(resources) > 5 else "")
        _log.warning(
            "proxy refused resources, it keeps the last good ones",
            proxy=peer.node_id,
            type=short,
            resources=shown,
            reason=reason,
        )

    def refuses(self, peer: Peer, type_url: str, reasons: Mapping[str, str]) -> None:
        """Bring what a proxy refuses now to the conditions of the objects."""
        self._rejections.put_peer(peer, type_url, reasons)

    @property
    def peers(self) -> Collection[Peer]:
        """Every connected proxy."""
        return self._peers.values()

    def page(self) -> str:
        """Return ``/debug/syncz``: every connected proxy, with sent, accepted and refused responses by type."""
        return json.dumps([_describe(peer) for peer in self._peers.values()], indent=2) + "\n"


def _describe(peer: Peer) -> dict[str, object]:
    types = {
        type_url: {
            "sent": item.record.sent,
            "acked": item.record.acked,
            "nacked": item.record.nacked,
            "rejects": item.record.rejects,
            "error": item.record.error,
            "refused": item.record.refused,
            "wildcard": item.wildcard,
            "resources": item.size(),
            "synced": item.record.acked == item.record.sent,
        }
        for type_url, item in peer.subscriptions.items()
    }
    return {
        "proxy": peer.node_id,
        "identity": peer.identity,
        "node": str(peer.metadata.get("NODE_NAME", "")),
        "cluster": str(peer.metadata.get("CLUSTER_ID", "")),
        "version": str(peer.metadata.get("ISTIO_VERSION", "")),
        "types": types,
    }
