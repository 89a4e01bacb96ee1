"""Transport sockets: mutual TLS of the mesh, tunnels to endpoints, TLS to others.

Facts: Istio's ``pilot/pkg/networking/core/listener_waypoint.go``, ``cluster_tls.go`` and ``pilot/pkg/security/model``.
"""

import re
from collections.abc import Iterable
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.metadata.v3 import metadata_pb2
from google.protobuf import duration_pb2

from controlplane.envoy import names, unusable_root
from controlplane.envoy.packing import ads, flag, packed, regex
from controlplane.gateways.listener import ClientCheck, Demand, EdgeListener, ServerTls, Spoken
from controlplane.inputs.sources import TlsSecret
from controlplane.routing.backend_tls import BackendTls
from meshapi import names as mesh_names
from meshapi.resources.backend_policies import SubjectAltNameType
from meshapi.resources.destination_rule import ClientTLSSettings, TLSMode
from meshkit.kube import Key

HBONE_PORT: Final = mesh_names.HBONE_PORT
_TLS: Final = "envoy.transport_sockets.tls"
_INTERNAL: Final = "envoy.transport_sockets.internal_upstream"
_RAW: Final = "envoy.transport_sockets.raw_buffer"
_H2: Final = ("h2",)
_ALPN: Final = ("h2", "http/1.1")
_NO_CERTIFICATE: Final = "0" * 64
"""SHA-256 that no certificate has."""
_FILES_TIMEOUT: Final = duration_pb2.Duration(seconds=5)
"""How long a cluster waits for files or a Secret; then its connections fail, and what else the proxy serves goes on."""
Match = cluster_pb2.Cluster.TransportSocketMatch
Kind = metadata_pb2.MetadataKind
_San = common_pb2.SubjectAltNameMatcher
_SAN_TYPES: Final = (_San.DNS, _San.URI, _San.IP_ADDRESS)
"""``subjectAltNames`` are names of any kind."""


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


def secret_name(key: Key) -> str:
    """Return the SDS name of a Secret with a certificate of a gateway's."""
    return f"{mesh_names.GATEWAY_SECRET}{'/'.join(key)}"


def credential_name(secret: str) -> str:
    """Return the SDS name of a certificate for TLS to servers, out of a Secret in the proxy's namespace."""
    return f"{mesh_names.KUBERNETES_SECRET}{secret}"


def credential_roots_name(secret: str) -> str:
    """Return the SDS name of the roots in such a Secret; no Secret can be called so."""
    return f"{credential_name(secret)}/{mesh_names.GATEWAY_CLIENT_ROOTS}"


def no_roots() -> common_pb2.CertificateValidationContext:
    """Return a check that no certificate passes, whatever is checked besides."""
    result = roots(unusable_root.PEM)
    result.verify_certificate_hash.append(_NO_CERTIFICATE)
    return result


def client_roots_name(gateway: Key, port: int) -> str:
    """Return the SDS name of the roots of the certificates of a port's clients; no Secret can be called so."""
    return f"{secret_name(gateway)}/{port}{mesh_names.GATEWAY_CLIENT_ROOTS}"


def secret_roots_name(secret: Key) -> str:
    """Return the SDS name of the roots in a Secret; no Secret, and no port of a gateway, can be called so."""
    return f"{secret_name(secret)}/roots{mesh_names.GATEWAY_CLIENT_ROOTS}"


def certificate(secret: TlsSecret) -> common_pb2.TlsCertificate:
    """Return a certificate with its key, out of a Secret."""
    return common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_string=secret.chain),
        private_key=base_pb2.DataSource(inline_string=secret.key),
    )


def roots(pem: str, revoked: str = "") -> common_pb2.CertificateValidationContext:
    """Return roots out of a Secret, with revocation lists."""
    result = common_pb2.CertificateValidationContext()
    result.trusted_ca.inline_string = pem
    if revoked:
        result.crl.inline_string = revoked
    return result


def client_validation(check: ClientCheck) -> common_pb2.CertificateValidationContext:
    """Return how certificates of clients are checked."""
    result = roots(check.roots)
    if check.demand is Demand.ANYTHING:
        result.trust_chain_verification = common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
    return result


def edge_server(gateway: Key, listener: EdgeListener) -> base_pb2.TransportSocket:
    """Return TLS for the clients of a gateway's listener; certificates come over the discovery stream."""
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            alpn_protocols=_ALPN if listener.spoken is Spoken.HTTPS else (),
            tls_params=_parameters(listener.tls),
            tls_certificate_sds_secret_configs=[
                *(secret_pb2.SdsSecretConfig(name=secret_name(key), sds_config=ads()) for key in listener.certificates),
                *(_in_file(name) for name in listener.tls.files),
                *([_sds(mesh_names.WORKLOAD_SECRET_NAME)] if listener.tls.is_mesh else []),
            ],
        )
    )
    check = listener.clients
    if check is not None:
        combined = context.common_tls_context.combined_validation_context
        combined.default_validation_context.match_typed_subject_alt_names.extend(
            _san(kind, name) for name in check.names for kind in _SAN_TYPES
        )
        combined.default_validation_context.verify_certificate_spki.extend(check.keys)
        combined.default_validation_context.verify_certificate_hash.extend(check.hashes)
        combined.validation_context_sds_secret_config.CopyFrom(_client_roots(gateway, listener.port, check))
        context.require_client_certificate.value = check.demand is Demand.VALID
        # A session that is taken up again would not be checked again.
        context.disable_stateless_session_resumption = True
        context.disable_stateful_session_resumption = True
    return base_pb2.TransportSocket(name=_TLS, typed_config=packed(context))


def _client_roots(gateway: Key, port: int, check: ClientCheck) -> secret_pb2.SdsSecretConfig:
    """Return where the roots come from that clients' certificates are checked against."""
    if check.is_mesh:
        return _sds(mesh_names.ROOT_SECRET_NAME)
    if check.file:
        return _in_file(check.file)
    name = client_roots_name(gateway, port) if check.secret is None else secret_roots_name(check.secret)
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads())


def _parameters(tls: ServerTls) -> common_pb2.TlsParameters:
    versions = common_pb2.TlsParameters.TlsProtocol
    result = common_pb2.TlsParameters(
        tls_minimum_protocol_version=versions.Value(tls.oldest), cipher_suites=tls.ciphers
    )
    if tls.newest:
        result.tls_maximum_protocol_version = versions.Value(tls.newest)
    return result


def internal(inner: base_pb2.TransportSocket, *, has_target: bool = True) -> base_pb2.TransportSocket:
    """Return the way to an internal listener; what it has to know goes along as metadata and filter state.

    Args:
        inner: what is spoken through it.
        has_target: whether the endpoint's metadata says where the connection goes; else filter state does.
    """
    passed = [
        internal_upstream_pb2.InternalUpstreamTransport.MetadataValueSource(
            kind=Kind(host=Kind.Host()), name=names.ORIGINAL_DESTINATION
        )
    ][:has_target]
    transport = internal_upstream_pb2.InternalUpstreamTransport(passthrough_metadata=passed, transport_socket=inner)
    return base_pb2.TransportSocket(name=_INTERNAL, typed_config=packed(transport))


def raw() -> base_pb2.TransportSocket:
    """Return plain TCP."""
    return base_pb2.TransportSocket(name=_RAW, typed_config=packed(raw_buffer_pb2.RawBuffer()))


def socket_matches(
    tls: ClientTLSSettings | None, backend: BackendTls | None = None, *, http2: bool
) -> Iterable[cluster_pb2.Cluster.TransportSocketMatch]:
    """Return how a cluster's endpoints are reached: through a tunnel where they have one, else directly.

    TLS that a DestinationRule or a BackendTLSPolicy demands is spoken to the application, inside of the tunnel if there
    is one.

    Args:
        tls: what the DestinationRule demands.
        backend: what the BackendTLSPolicy demands; it goes before ``tls``.
        http2: whether endpoints are spoken to in HTTP/2 alone.
    """
    demanded = tls is not None and tls.mode in {TLSMode.SIMPLE, TLSMode.MUTUAL}
    if backend is not None:
        application, demanded = _to_backend(backend, http2=http2), True
    else:
        application = _client(tls, http2=http2) if tls is not None and demanded else raw()
    tunnelled = Match(name="hbone", transport_socket=internal(application))
    tunnelled.match.update({names.TUNNEL_KEY: names.TUNNEL_VALUE})
    yield tunnelled
    yield Match(name="tlsMode-user" if demanded else "tlsMode-disabled", transport_socket=application)


def is_named_by_request(tls: ClientTLSSettings | None) -> bool:
    """Return whether the server name of TLS is the host of the request, because the DestinationRule gives none."""
    return tls is not None and tls.mode in {TLSMode.SIMPLE, TLSMode.MUTUAL} and not tls.sni


def is_checked_by_request(tls: ClientTLSSettings | None) -> bool:
    """Return whether the server's certificate must be for the host of the request: no other name is given."""
    return tls is not None and is_named_by_request(tls) and not (tls.subject_alt_names or tls.insecure_skip_verify)


def _client(tls: ClientTLSSettings, *, http2: bool) -> base_pb2.TransportSocket:
    context = tls_pb2.CommonTlsContext(alpn_protocols=_H2 if http2 else ())
    validation = common_pb2.CertificateValidationContext()
    if tls.insecure_skip_verify:
        validation.trust_chain_verification = common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
        context.validation_context.CopyFrom(validation)
    else:
        validation.match_typed_subject_alt_names.extend(
            _san(kind, name) for name in tls.subject_alt_names for kind in _SAN_TYPES
        )
        context.combined_validation_context.default_validation_context.CopyFrom(validation)
        context.combined_validation_context.validation_context_sds_secret_config.CopyFrom(_roots(tls))
    if tls.mode is TLSMode.MUTUAL:
        context.tls_certificate_sds_secret_configs.append(_pair(tls))
    upstream = tls_pb2.UpstreamTlsContext(common_tls_context=context, sni=tls.sni)
    # Requests name the host themselves (auto_sni); this is for connections that carry none.
    upstream.auto_host_sni = is_named_by_request(tls)
    upstream.auto_sni_san_validation = is_checked_by_request(tls)
    return base_pb2.TransportSocket(name=_TLS, typed_config=packed(upstream))


def _to_backend(tls: BackendTls, *, http2: bool) -> base_pb2.TransportSocket:
    """Return TLS as a BackendTLSPolicy demands it. Without trusted authorities, no certificate is accepted."""
    context = tls_pb2.CommonTlsContext(alpn_protocols=_H2 if http2 else ())
    validation = common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=[_alternative(kind, name) for kind, name in tls.names]
    )
    if tls.trusts_system:
        context.combined_validation_context.default_validation_context.CopyFrom(validation)
        roots = _in_file(mesh_names.SYSTEM_ROOTS_SECRET_NAME)
        context.combined_validation_context.validation_context_sds_secret_config.CopyFrom(roots)
    else:
        if tls.roots:
            validation.trusted_ca.inline_string = tls.roots
        else:
            validation.verify_certificate_hash.append(_NO_CERTIFICATE)
            validation.ClearField("match_typed_subject_alt_names")
        context.validation_context.CopyFrom(validation)
    if tls.certificate is not None:
        own = secret_pb2.SdsSecretConfig(name=secret_name(tls.certificate), sds_config=ads())
        context.tls_certificate_sds_secret_configs.append(own)
    upstream = tls_pb2.UpstreamTlsContext(common_tls_context=context, sni=tls.hostname)
    return base_pb2.TransportSocket(name=_TLS, typed_config=packed(upstream))


def _alternative(kind: SubjectAltNameType, name: str) -> common_pb2.SubjectAltNameMatcher:
    """Return a name that a certificate may have; ``*.`` stands for one label, as it does in certificates."""
    if kind is SubjectAltNameType.URI:
        return _san(_San.URI, name)
    if not name.startswith("*."):
        return _san(_San.DNS, name)
    matcher = _San(san_type=_San.DNS)
    matcher.matcher.safe_regex.CopyFrom(regex(rf"[^.]+{re.escape(name[1:])}"))
    return matcher


def _pair(tls: ClientTLSSettings) -> secret_pb2.SdsSecretConfig:
    """Return where the proxy's own certificate comes from."""
    if tls.credential_name:
        return _credential(credential_name(tls.credential_name))
    return _in_file(f"{mesh_names.FILE_CERTIFICATE}:{tls.client_certificate}~{tls.private_key}")


def _roots(tls: ClientTLSSettings) -> secret_pb2.SdsSecretConfig:
    """Return where the roots, and the revocation list, come from that a server's certificate is checked against."""
    if tls.credential_name:
        return _credential(credential_roots_name(tls.credential_name))
    if not tls.ca_certificates:
        return _in_file(mesh_names.SYSTEM_ROOTS_SECRET_NAME)
    revoked = f"~{tls.ca_crl}" if tls.ca_crl else ""
    return _in_file(f"{mesh_names.FILE_ROOTS}:{tls.ca_certificates}{revoked}")


def _credential(name: str) -> secret_pb2.SdsSecretConfig:
    source = ads()
    source.initial_fetch_timeout.CopyFrom(_FILES_TIMEOUT)
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)


def _san(kind: int, name: str) -> common_pb2.SubjectAltNameMatcher:
    matcher = _San(san_type=kind)
    matcher.matcher.exact = name
    return matcher


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


def _in_file(name: str) -> secret_pb2.SdsSecretConfig:
    return _sds(name, _FILES_TIMEOUT)


def _sds(name: str, timeout: duration_pb2.Duration | None = None) -> secret_pb2.SdsSecretConfig:
    """Return where a secret comes from; without a timeout, what needs it waits for it."""
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
        initial_fetch_timeout=timeout or duration_pb2.Duration(),
    )
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)
