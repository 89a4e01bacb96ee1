"""Transport sockets: mutual TLS of the mesh, tunnels to endpoints, TLS to others.

Facts: Istio's ``pilot/pkg/networking/core/listener_waypoint.go``, ``cluster_tls.go`` and ``pilot/pkg/security/model``.
"""

from collections.abc import Iterable
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.metadata.v3 import metadata_pb2
from google.protobuf import duration_pb2

from controlplane.envoy import names
from controlplane.envoy.packing import flag, packed
from meshapi import names as mesh_names
from meshapi.resources.destination_rule import ClientTLSSettings, TLSMode

HBONE_PORT: Final = mesh_names.HBONE_PORT
_TLS: Final = "envoy.transport_sockets.tls"
_INTERNAL: Final = "envoy.transport_sockets.internal_upstream"
_RAW: Final = "envoy.transport_sockets.raw_buffer"
_H2: Final = ("h2",)
_SYSTEM_ROOTS: Final = "file-root:system"
Match = cluster_pb2.Cluster.TransportSocketMatch
Kind = metadata_pb2.MetadataKind


def mesh_server() -> base_pb2.TransportSocket:
    """Return mutual TLS for the tunnels of clients."""
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_mesh_context(),
        require_client_certificate=flag(True),
        disable_stateless_session_resumption=True,
    )
    return base_pb2.TransportSocket(name="tls", typed_config=packed(context))


def mesh_client() -> base_pb2.TransportSocket:
    """Return mutual TLS for tunnels to endpoints."""
    return base_pb2.TransportSocket(
        name=_TLS, typed_config=packed(tls_pb2.UpstreamTlsContext(common_tls_context=_mesh_context()))
    )


def internal() -> base_pb2.TransportSocket:
    """Return the way to an internal listener; what it has to know goes along as metadata and filter state."""
    passed = [
        internal_upstream_pb2.InternalUpstreamTransport.MetadataValueSource(
            kind=Kind(host=Kind.Host()), name=names.ORIGINAL_DESTINATION
        )
    ]
    transport = internal_upstream_pb2.InternalUpstreamTransport(passthrough_metadata=passed, transport_socket=raw())
    return base_pb2.TransportSocket(name=_INTERNAL, typed_config=packed(transport))


def raw() -> base_pb2.TransportSocket:
    """Return plain TCP."""
    return base_pb2.TransportSocket(name=_RAW, typed_config=packed(raw_buffer_pb2.RawBuffer()))


def socket_matches(tls: ClientTLSSettings | None) -> Iterable[cluster_pb2.Cluster.TransportSocketMatch]:
    """Return how a cluster's endpoints are reached: through a tunnel where they have one, else directly.

    TLS that a DestinationRule demands is spoken to the application, inside of the tunnel if there is one.
    """
    application = None if tls is None or tls.mode in {TLSMode.DISABLE, TLSMode.ISTIO_MUTUAL} else _client(tls)
    if application is not None:
        yield Match(name="tlsMode-user", transport_socket=application)
        return
    tunnelled = Match(name="hbone", transport_socket=internal())
    tunnelled.match.update({names.TUNNEL_KEY: names.TUNNEL_VALUE})
    yield tunnelled
    yield Match(name="tlsMode-disabled", transport_socket=raw())


def _client(tls: ClientTLSSettings) -> base_pb2.TransportSocket:
    context = tls_pb2.CommonTlsContext()
    validation = context.combined_validation_context.default_validation_context
    for name in tls.subject_alt_names:
        validation.match_typed_subject_alt_names.add(san_type=common_pb2.SubjectAltNameMatcher.DNS).matcher.exact = name
    if tls.insecure_skip_verify:
        validation.trust_chain_verification = common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
        context.validation_context.CopyFrom(validation)
    else:
        roots = tls.ca_certificates or _SYSTEM_ROOTS
        context.combined_validation_context.validation_context_sds_secret_config.CopyFrom(_sds(roots))
    upstream = tls_pb2.UpstreamTlsContext(common_tls_context=context, sni=tls.sni)
    if not tls.sni:
        upstream.auto_host_sni = True
        upstream.auto_sni_san_validation = not (tls.subject_alt_names or tls.insecure_skip_verify)
    return base_pb2.TransportSocket(name=_TLS, typed_config=packed(upstream))


def _mesh_context() -> tls_pb2.CommonTlsContext:
    """Return mutual TLS between proxies: TLS 1.3, certificates and roots over SDS."""
    context = tls_pb2.CommonTlsContext(
        alpn_protocols=_H2,
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
            tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
        ),
        tls_certificate_sds_secret_configs=[_sds(mesh_names.WORKLOAD_SECRET_NAME)],
    )
    combined = context.combined_validation_context
    combined.default_validation_context.SetInParent()
    combined.validation_context_sds_secret_config.CopyFrom(_sds(mesh_names.ROOT_SECRET_NAME))
    return context


def _sds(name: str) -> secret_pb2.SdsSecretConfig:
    api = config_source_pb2.ApiConfigSource(
        api_type=config_source_pb2.ApiConfigSource.GRPC,
        transport_api_version=config_source_pb2.V3,
        set_node_on_first_message_only=True,
        grpc_services=[
            grpc_service_pb2.GrpcService(
                envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=mesh_names.SDS_CLUSTER)
            )
        ],
    )
    source = config_source_pb2.ConfigSource(
        api_config_source=api,
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=duration_pb2.Duration(),
    )
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)
