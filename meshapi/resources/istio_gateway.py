"""``networking.istio.io``: Gateway, in full, with Istio's field names.

Source: istio/api, networking/v1alpha3/gateway.proto (v1, v1beta1 and v1alpha3 are the same). What Istio's validation
refuses and one object alone can show is refused here, so that translation need not check again.
"""

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.values import PortNumber

_HOST: Final = re.compile(
    r"\*|(\*\.)?([a-z0-9_]([-a-z0-9_]*[a-z0-9_])?\.)*[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?", re.IGNORECASE
)
_NAMESPACE: Final = re.compile(r"\*|\.|[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_HTTP: Final = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})
_CONNECTIONS: Final = frozenset({"TCP", "MONGO", "MYSQL", "REDIS"})
_TLS: Final = frozenset({"HTTPS", "TLS"})


def _host(value: str) -> str:
    namespace, slash, name = value.rpartition("/")
    if (slash and not _NAMESPACE.fullmatch(namespace)) or not _HOST.fullmatch(name):
        raise ValueError("is not a host; write as www.example.com, *.example.com, shop/www.example.com or *")
    return value


def _protocol(value: str) -> str:
    name = value.upper()
    if name not in _HTTP | _CONNECTIONS | _TLS:
        known = "HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, MYSQL, REDIS, TCP or TLS"
        raise ValueError(f"is not a protocol of gateways; write {known}")
    return name


def _bind(value: str) -> str:
    if value:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("is not an IP address; write one of the gateway's pods, or leave it out") from None
    return value


class TlsMode(StrEnum):
    """Who ends TLS, and what clients have to show."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"

    @property
    def is_passthrough(self) -> bool:
        """Whether the gateway leaves TLS as it is."""
        return self in {TlsMode.PASSTHROUGH, TlsMode.AUTO_PASSTHROUGH}

    @property
    def checks_clients(self) -> bool:
        """Whether the user names the roots that clients' certificates are checked against."""
        return self in {TlsMode.MUTUAL, TlsMode.OPTIONAL_MUTUAL}


class TlsVersion(StrEnum):
    """A version of TLS; TLS_AUTO is the proxy's own default."""

    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TlsFiles(LenientModel):
    """A certificate in files of the gateway's pods."""

    server_certificate: str = Field(default="", description="File with the certificate.")
    private_key: str = Field(default="", description="File with its private key.")
    ca_certificates: str = Field(default="", description="Not used here; see caCertificates of tls.")


class ServerTLS(LenientModel):
    """TLS of a server."""

    https_redirect: bool = Field(default=False, description="Whether plain requests are redirected to HTTPS.")
    mode: TlsMode = Field(default=TlsMode.PASSTHROUGH, description="Who ends TLS, and what clients have to show.")
    server_certificate: str = Field(default="", description="File with the certificate.")
    private_key: str = Field(default="", description="File with its private key.")
    ca_certificates: str = Field(default="", description="File with the roots of clients' certificates.")
    ca_crl: str = Field(default="", description="File with a revocation list of clients' certificates.")
    credential_name: str = Field(default="", description="Secret with certificate, key and roots.")
    credential_names: tuple[str, ...] = Field(default=(), description="Secrets; the client's algorithms choose one.")
    ca_cert_credential_name: str = Field(default="", description="Secret with the roots of clients' certificates.")
    tls_certificates: tuple[TlsFiles, ...] = Field(default=(), description="Several certificates in files.")
    subject_alt_names: tuple[str, ...] = Field(default=(), description="Names of which a client's has to have one.")
    verify_certificate_spki: tuple[str, ...] = Field(default=(), description="Hashes of clients' keys, in base64.")
    verify_certificate_hash: tuple[str, ...] = Field(default=(), description="Hashes of clients' certificates, in hex.")
    min_protocol_version: TlsVersion = Field(
        default=TlsVersion.TLS_AUTO, description="Oldest version; 1.2 if not given."
    )
    max_protocol_version: TlsVersion = Field(default=TlsVersion.TLS_AUTO, description="Newest version.")
    cipher_suites: tuple[str, ...] = Field(default=(), description="For TLS 1.2 and older, as OpenSSL names them.")

    @property
    def names(self) -> tuple[str, ...]:
        """The Secrets with certificates."""
        return (self.credential_name,) if self.credential_name else self.credential_names

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Files with certificates, each with the file of its key."""
        if self.tls_certificates:
            return tuple((one.server_certificate, one.private_key) for one in self.tls_certificates)
        return ((self.server_certificate, self.private_key),) if self.server_certificate else ()

    @model_validator(mode="after")
    def _is_consistent(self) -> "ServerTLS":
        ways = {
            "credentialName": bool(self.credential_name),
            "credentialNames": bool(self.credential_names),
            "tlsCertificates": bool(self.tls_certificates),
            "serverCertificate": bool(self.server_certificate),
        }
        given = [name for name, is_given in ways.items() if is_given]
        # Istio lets files stand beside credentialName, which goes before them.
        if len(given) > 1 and given != ["credentialName", "serverCertificate"]:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one of them")
        versions = list(TlsVersion)
        newest = versions.index(self.max_protocol_version)
        if newest and versions.index(self.min_protocol_version) > newest:
            raise ValueError("minProtocolVersion is newer than maxProtocolVersion; exchange them")
        if self.mode is TlsMode.ISTIO_MUTUAL and (given or self.ca_certificates):
            raise ValueError(
                f"{[*given, 'caCertificates'][0]} is given with mode ISTIO_MUTUAL, which has the mesh's own"
            )
        if self.mode in {TlsMode.SIMPLE, TlsMode.MUTUAL, TlsMode.OPTIONAL_MUTUAL}:
            self._check_certificates(given)
        return self

    def _check_certificates(self, given: list[str]) -> None:
        if not given:
            raise ValueError(f"mode {self.mode} has no certificate; name a Secret in credentialName")
        if any(not (certificate and key) for certificate, key in self.files) and not self.names:
            raise ValueError("serverCertificate and privateKey belong together; give both, or name a Secret")
        has_roots = bool(self.names or self.ca_certificates or self.ca_cert_credential_name)
        if self.mode.checks_clients and not has_roots:
            raise ValueError(f"mode {self.mode} has no roots for clients' certificates; give caCertificates")


class Port(LenientModel):
    """A port of the gateway's Service."""

    number: PortNumber = Field(description="Number that clients of the Service call.")
    protocol: Annotated[str, AfterValidator(_protocol)] = Field(
        description="HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS."
    )
    name: str = Field(min_length=1, description="Name.")
    target_port: int = Field(default=0, description="Deprecated; without effect.")

    @property
    def is_http(self) -> bool:
        """Whether it speaks HTTP without TLS."""
        return self.protocol in _HTTP

    @property
    def has_tls(self) -> bool:
        """Whether its clients speak TLS."""
        return self.protocol in _TLS


class Server(LenientModel):
    """Hosts that are served at a port."""

    name: str = Field(default="", description="Name.")
    port: Port = Field(description="Where clients call.")
    bind: Annotated[str, AfterValidator(_bind)] = Field(
        default="", description="Address to listen on; all if not given."
    )
    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(
        min_length=1, description="Hosts, as *.example.com, or with the namespace of VirtualServices, as shop/*."
    )
    tls: ServerTLS | None = Field(default=None, description="TLS.")
    default_endpoint: str = Field(default="", description="Not supported, by Istio neither.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "Server":
        if self.port.has_tls and self.tls is None:
            raise ValueError(f"port has protocol {self.port.protocol} but there is no tls; write tls.mode")
        if not self.port.has_tls and self.tls is not None and self._asks_for_tls(self.tls):
            raise ValueError(f"tls is given for protocol {self.port.protocol}, which has none; use HTTPS or TLS")
        if not self.port.is_http and self.tls is not None and self.tls.https_redirect and not self.port.has_tls:
            raise ValueError("tls.httpsRedirect is for HTTP; remove it")
        if self.default_endpoint:
            raise ValueError("defaultEndpoint is not supported; remove it")
        return self

    @staticmethod
    def _asks_for_tls(tls: ServerTLS) -> bool:
        return bool(tls.mode is not TlsMode.PASSTHROUGH or tls.names or tls.files or tls.ca_certificates)


def server_host(host: str, namespace: str) -> tuple[str, str]:
    """Return the namespace of the VirtualServices that may have a server's host, ``*`` for any, and the host's name.

    Args:
        host: as in ``hosts``: ``name`` or ``scope/name``.
        namespace: of the Gateway, which the scope ``.`` stands for.
    """
    scope, slash, name = host.lower().rpartition("/")
    return (namespace if scope == "." else scope) if slash else "*", name


def can_share_port(one: Server, other: Server) -> bool:
    """Return whether two servers may have one port and address: requests are told apart by host, TLS by server name."""
    return (one.port.is_http and other.port.is_http) or (one.port.has_tls and other.port.has_tls)


def contested_hosts(one: Server, other: Server) -> frozenset[str]:
    """Return the host names by which two servers of one port cannot be told apart; none where both speak plain HTTP."""
    if not (one.port.has_tls and other.port.has_tls):
        return frozenset()
    return _names(one) & _names(other)


def _names(server: Server) -> frozenset[str]:
    return frozenset(server_host(host, "")[1] for host in server.hosts)


class GatewaySpec(LenientModel):
    """Ports and hosts that the pods of gateways serve."""

    selector: dict[str, str] = Field(
        default_factory=dict, description="Labels of the gateway's pods, in any namespace."
    )
    servers: tuple[Server, ...] = Field(min_length=1, description="Ports, each with its hosts.")

    @model_validator(mode="after")
    def _has_unique_names(self) -> "GatewaySpec":
        for what, names in (
            ("port.name", [one.port.name for one in self.servers]),
            ("name", [one.name for one in self.servers if one.name]),
        ):
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise ValueError(f"two servers have {what} {name}; give each its own")
        return self


class Gateway(ModelObject):
    """Ports and hosts that the pods of gateways serve."""

    spec: GatewaySpec
