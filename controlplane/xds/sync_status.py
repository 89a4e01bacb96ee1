"""Which configuration each proxy has accepted, in the flat form that Kiali reads (``15014/debug/syncz``).

Kiali 2.31 calls a type ``Synced`` when ``*_sent`` equals ``*_acked`` and is not empty, ``NOT_SENT`` when it is empty. A
ztunnel subscribes to none of the four Envoy types, so its fields are empty, as with Istio. Source: ``SyncStatus`` in
istio/istio, ``pilot/pkg/xds/debug.go``.
"""

import json
from collections.abc import Iterable
from typing import Final

from meshkit.xds.stream import Peer

_ENVOY_TYPES: Final = {
    "cluster": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "listener": "type.googleapis.com/envoy.config.listener.v3.Listener",
    "route": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "endpoint": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
}


def flat_page(peers: Iterable[Peer]) -> str:
    """Return the page: a JSON array with one object for each connected proxy."""
    return json.dumps([_flat(peer) for peer in peers]) + "\n"


def _flat(peer: Peer) -> dict[str, str]:
    version = str(peer.metadata.get("ISTIO_VERSION", ""))
    status = {
        "cluster_id": str(peer.metadata.get("CLUSTER_ID", "")),
        "proxy": _name(peer),
        "proxy_type": peer.node_id.partition("~")[0],
        "proxy_version": version,
        "istio_version": version,
    }
    for short, type_url in _ENVOY_TYPES.items():
        subscription = peer.subscriptions.get(type_url)
        sent = subscription.record.sent if subscription else 0
        acked = subscription.record.acked if subscription else 0
        status[f"{short}_sent"] = str(sent or "")
        status[f"{short}_acked"] = str(acked or "")
    return status


def _name(peer: Peer) -> str:
    """Return ``pod.namespace``, the third part of a node ID ``type~address~pod.namespace~domain``."""
    parts = peer.node_id.split("~")
    return parts[2] if len(parts) == 4 else peer.node_id
