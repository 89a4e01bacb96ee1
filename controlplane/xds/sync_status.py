"""Which configuration each proxy has accepted, in the flat form that Kiali reads (``15014/debug/syncz``).

Kiali 2.31 calls a type ``Synced`` when ``*_sent`` equals ``*_acked`` and is not empty, ``NOT_SENT`` when it is empty. A
ztunnel subscribes to none of the four Envoy types, so its fields are empty, as with Istio. Source: ``SyncStatus`` in
istio/istio, ``pilot/pkg/xds/debug.go``.
"""

import json
from collections.abc import Iterable
from typing import Final

from meshapi import names
from meshkit.xds.peer import Peer

_ENVOY_TYPES: Final = {
    "cluster": names.CLUSTER_TYPE,
    "listener": names.LISTENER_TYPE,
    "route": names.ROUTE_TYPE,
    "endpoint": names.ENDPOINT_TYPE,
}


def flat_page(peers: Iterable[Peer]) -> str:
    """Return the page: a JSON array with one object for each connected proxy."""
    return json.dumps([_flat(peer) for peer in peers]) + "\n"


def _flat(peer: Peer) -> dict[str, str]:
    version = str(peer.metadata.get("ISTIO_VERSION", ""))
    status = {
        "cluster_id": str(peer.metadata.get("CLUSTER_ID", "")),
        "proxy": peer.name,
        "proxy_type": peer.node_type,
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
