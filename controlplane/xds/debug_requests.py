"""Requests of ``istioctl`` over discovery: which proxies are in sync (``proxy-status``, ``x version``, ``x
internal-debug syncz``).

Istio served these without authentication on a port without TLS (CVE-2026-31838). Here a request needs TLS and a token,
and is answered to service accounts of the control plane's own namespace only.
"""

import json
from collections.abc import Iterable

from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2
from google.protobuf import any_pb2

from controlplane.metrics import own_version
from controlplane.xds.observer import StreamObserver
from meshapi import names
from meshkit.xds.errors import Denied
from meshkit.xds.peer import Peer
from meshkit.xds.subscription import Record

_LIST = "list"
_PAGE = "syncz"
_NO_SUCH_PAGE = "404 page not found"
"""On this text, ``istioctl`` requests the list of pages."""
_SHOWN = ("CLUSTER_ID", "NAMESPACE", "ISTIO_VERSION")
"""What of a proxy's metadata an answer has."""


class DebugRequests:
    """Answers debug requests.

    Args:
        observer: knows the proxies.
        namespace: its service accounts are authorized.
        instance: name of this control plane's pod.
    """

    def __init__(self, observer: StreamObserver, *, namespace: str, instance: str) -> None:
        self._observer = observer
        self._namespace = namespace
        self._instance = instance

    def answer(self, caller: str, request: discovery_pb2.DiscoveryRequest) -> discovery_pb2.DiscoveryResponse | None:
        """Answer a request of ``caller`` (``namespace/service account``); ``None`` for another type.

        Raises:
            Denied: the caller is of another namespace.
        """
        if request.type_url not in {names.DEBUG_TYPE, names.SYNC_STATUS_TYPE}:
            return None
        if caller.partition("/")[0] != self._namespace:
            raise Denied(f"{caller} is not authorized; use a service account of namespace {self._namespace}")
        if request.type_url == names.DEBUG_TYPE:
            text = self._page(list(request.resource_names))
            resources = [any_pb2.Any(type_url=names.DEBUG_TYPE, value=text.encode())]
        else:
            resources = list(_sync_status(self._observer.peers))
        return discovery_pb2.DiscoveryResponse(
            type_url=request.type_url,
            resources=resources,
            control_plane=base_pb2.ControlPlane(identifier=_identifier(self._instance)),
        )

    def _page(self, wanted: list[str]) -> str:
        if wanted == [_PAGE]:
            return self._observer.page()
        return json.dumps([_PAGE]) if wanted == [_LIST] else _NO_SUCH_PAGE


def _identifier(instance: str) -> str:
    version = own_version()
    return json.dumps({"Component": "istiod", "ID": instance, "Info": {"version": version, "tag": version}})


def _sync_status(peers: Iterable[Peer]) -> Iterable[any_pb2.Any]:
    for peer in peers:
        config = csds_pb2.ClientConfig(
            node=base_pb2.Node(id=peer.node_id),
            generic_xds_configs=[
                _config(type_url, subscription.record) for type_url, subscription in sorted(peer.subscriptions.items())
            ],
        )
        config.node.metadata.update({key: str(peer.metadata.get(key, "")) for key in _SHOWN})
        packed = any_pb2.Any()
        packed.Pack(config)
        yield packed


def _config(type_url: str, record: Record) -> csds_pb2.ClientConfig.GenericXdsConfig:
    config = csds_pb2.ClientConfig.GenericXdsConfig(type_url=type_url)
    if record.refused or record.nacked > record.acked:
        config.config_status = csds_pb2.ERROR
        config.error_state.CopyFrom(config_dump_shared_pb2.UpdateFailureState(details=record.error))
    elif not record.sent:
        config.config_status = csds_pb2.NOT_SENT
    else:
        config.config_status = csds_pb2.SYNCED if record.acked == record.sent else csds_pb2.STALE
    return config
