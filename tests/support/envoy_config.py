"""Envoy as an HBONE peer, in its own configuration language. Pure: dictionaries in, dictionaries out.

The shape is that of the public documentation of Envoy (CONNECT upgrade, TCP tunnelling, TLS transport sockets) and of
what Istio's waypoint does on the wire (HBONE): TLS 1.3, ALPN ``h2``, both sides with a certificate, the
SPIFFE identity checked, no SNI.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshapi import names

Json = dict[str, object]

_TYPE = "type.googleapis.com/"
_EXTENSIONS = "envoy.extensions."
STREAM_WINDOW = 4 * 1024 * 1024
CONNECTION_WINDOW = 4 * STREAM_WINDOW


def typed(name: str, **fields: object) -> Json:
    return {"@type": f"{_TYPE}{name}", **fields}


def extension(name: str, kind: str, **fields: object) -> Json:
    return {"name": name, "typed_config": typed(_EXTENSIONS + kind, **fields)}


def socket_address(ip: str, port: int) -> Json:
    return {"socket_address": {"address": ip, "port_value": port}}


@dataclass(frozen=True)
class Inline:
    """A certificate, its key and the roots, written into the configuration."""

    chain: bytes
    key: bytes
    roots: bytes

    def context(self, validation: Json) -> Json:
        own = {
            "certificate_chain": {"inline_string": self.chain.decode()},
            "private_key": {"inline_string": self.key.decode()},
        }
        roots = {"trusted_ca": {"inline_string": self.roots.decode()}}
        return {"tls_certificates": [own], "validation_context": validation | roots}


@dataclass(frozen=True)
class FromSds:
    """A certificate and roots that an SDS server on a Unix socket hands out."""

    identity: str
    socket: Path

    def context(self, validation: Json) -> Json:
        source = {
            "api_config_source": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
            },
            "resource_api_version": "V3",
        }
        return {
            "tls_certificate_sds_secret_configs": [{"name": self.identity, "sds_config": source}],
            "combined_validation_context": {
                "default_validation_context": validation,
                "validation_context_sds_secret_config": {"name": names.ROOT_SECRET_NAME, "sds_config": source},
            },
        }

    def cluster(self) -> Json:
        endpoint = {"endpoint": {"address": {"pipe": {"path": str(self.socket)}}}}
        return cluster("sds", endpoint) | _http2({})


def cluster(name: str, endpoint: Mapping[str, object], **fields: object) -> Json:
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment, **fields}


def _http2(options: Json) -> Json:
    kind = f"{_EXTENSIONS}upstreams.http.v3.HttpProtocolOptions"
    explicit = {"http2_protocol_options": options}
    return {"typed_extension_protocol_options": {kind: typed(kind, explicit_http_config=explicit)}}


def _tls(certificate: Inline | FromSds, peer: Json) -> Json:
    validation: Json = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}]}
    parameters = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    return {**certificate.context(validation), "tls_params": parameters, "alpn_protocols": ["h2"]}


def _windows() -> Json:
    return {"initial_stream_window_size": STREAM_WINDOW, "initial_connection_window_size": CONNECTION_WINDOW}


def connect_listener(
    ip: str, certificate: Inline | FromSds, client: Json, routes: list[Json], log: list[Json], **fields: object
) -> Json:
    """Terminate HBONE on ``ip``:15008; ``client`` is a string matcher for the client's SPIFFE identity."""
    hosts = [{"name": "all", "domains": ["*"], "routes": routes}]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="hbone",
        codec_type="HTTP2",
        http2_protocol_options={"allow_connect": True, **_windows()},
        route_config={"name": "connect", "virtual_hosts": hosts},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        http_filters=[extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
        access_log=log,
        stream_idle_timeout="0s",
    )
    context = {"common_tls_context": _tls(certificate, client), "require_client_certificate": True}
    tls = extension("tls", "transport_sockets.tls.v3.DownstreamTlsContext", **context)
    chain = {"filters": [manager], "transport_socket": tls}
    return {
        "name": "hbone",
        "stat_prefix": "hbone",
        "address": socket_address(ip, names.HBONE_PORT),
        "filter_chains": [chain],
        **fields,
    }


def connect_route(cluster_name: str) -> Json:
    action = {"cluster": cluster_name, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    return {"match": {"connect_matcher": {}}, "route": {**action, "timeout": "0s"}}


def status_route(authority: str, status: int) -> Json:
    match = {"connect_matcher": {}, "headers": [{"name": ":authority", "string_match": {"exact": authority}}]}
    return {"match": match, "direct_response": {"status": status}}


def addressed_cluster(name: str) -> Json:
    """Go where the CONNECT's authority says."""
    how = {"use_http_header": True, "http_header_name": ":authority"}
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "original_dst_lb_config": how,
    }


def tunnel_cluster(name: str, ip: str, certificate: Inline | FromSds, server: Json, **fields: object) -> Json:
    """Tunnels to the HBONE listener of ``ip``; ``server`` is a string matcher for its SPIFFE identity."""
    context = {"common_tls_context": _tls(certificate, server)}
    tls = extension("tls", "transport_sockets.tls.v3.UpstreamTlsContext", **context)
    mark = {"level": 1, "name": 36, "int_value": names.TUNNEL_MARK, "state": "STATE_PREBIND"}  # SOL_SOCKET, SO_MARK
    bind = {"source_address": {"address": "0.0.0.0", "port_value": 0}, "socket_options": [mark]}
    endpoint = {"endpoint": {"address": socket_address(ip, names.HBONE_PORT)}}
    return cluster(name, endpoint, transport_socket=tls, upstream_bind_config=bind, **fields) | _http2(_windows())


def tunnel_listener(
    name: str,
    ip: str,
    port: int,
    cluster_name: str,
    authority: str,
    log: list[Json],
    headers: dict[str, str] | None = None,
    **fields: object,
) -> Json:
    """Carry each connection to ``ip``:``port`` as a CONNECT to ``authority``."""
    added = [{"header": {"key": key, "value": value}} for key, value in (headers or {}).items()]
    tunneling = {"hostname": authority, "headers_to_add": added, "propagate_response_headers": True}
    proxy = extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=name,
        cluster=cluster_name,
        tunneling_config=tunneling,
        access_log=log,
    )
    chain = {"filters": [proxy]}
    return {"name": name, "address": socket_address(ip, port), "filter_chains": [chain], **fields}


def original_destination_filter() -> Json:
    name = "envoy.filters.listener.original_dst"
    return extension(name, "filters.listener.original_dst.v3.OriginalDst")


def json_log(file: Path, **formats: str) -> list[Json]:
    kind = "access_loggers.file.v3.FileAccessLog"
    return [extension("envoy.access_loggers.file", kind, path=str(file), log_format={"json_format": formats})]


def bootstrap(admin: Path, listeners: list[Json], clusters: list[Json]) -> Json:
    return {
        "node": {"id": "peer", "cluster": "peer"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
