"""``networking.istio.io``: DestinationRule, in full, with Istio's field names.

Source: istio/api, networking/v1/destination_rule.proto (v1, v1beta1 and v1alpha3 are the same).
"""

from enum import StrEnum

from pydantic import Field, model_validator

from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.values import Duration, Percent, PortSelector, PositiveDuration, WorkloadSelector, exactly_one


class SimpleLB(StrEnum):
    """How an endpoint is chosen."""

    UNSPECIFIED = "UNSPECIFIED"
    LEAST_CONN = "LEAST_CONN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class CookieAttribute(LenientModel):
    """An attribute of a cookie that is made."""

    name: str = Field(description="Name.")
    value: str = Field(default="", description="Value.")


class HTTPCookie(LenientModel):
    """A cookie whose value chooses the endpoint."""

    name: str = Field(min_length=1, description="Name.")
    path: str = Field(default="", description="Path that it counts for.")
    ttl: Duration | None = Field(default=None, description="Life of a cookie that is made; 0s: the session's.")
    attributes: tuple[CookieAttribute, ...] = Field(default=(), description="Further attributes.")


class RingHash(LenientModel):
    """Consistent hash by a ring."""

    minimum_ring_size: int = Field(default=0, ge=0, description="Places of the ring at least; 1024 if 0.")


class MagLev(LenientModel):
    """Consistent hash by Maglev's table."""

    table_size: int = Field(default=0, ge=0, description="Size of the table, a prime number; 65537 if 0.")


class ConsistentHashLB(LenientModel):
    """Requests with the same key go to the same endpoint."""

    http_header_name: str | None = Field(default=None, description="Header that is the key.")
    http_cookie: HTTPCookie | None = Field(default=None, description="Cookie that is the key.")
    use_source_ip: bool | None = Field(default=None, description="Whether the client's address is the key.")
    http_query_parameter_name: str | None = Field(default=None, description="Parameter of the query that is the key.")
    ring_hash: RingHash | None = Field(default=None, description="Choose by a ring.")
    maglev: MagLev | None = Field(default=None, description="Choose by Maglev's table.")
    minimum_ring_size: int = Field(default=0, ge=0, description="Places of the ring (deprecated; use ringHash).")

    @model_validator(mode="after")
    def _has_key(self) -> "ConsistentHashLB":
        exactly_one(
            {
                "httpHeaderName": self.http_header_name,
                "httpCookie": self.http_cookie,
                "useSourceIp": self.use_source_ip,
                "httpQueryParameterName": self.http_query_parameter_name,
            }
        )
        if self.ring_hash is not None and self.maglev is not None:
            raise ValueError("ringHash and maglev exclude each other; keep one of them")
        return self


class LocalityDistribute(LenientModel):
    """How the load of a locality is divided."""

    from_: str = Field(alias="from", default="", description="Locality of clients, as region/zone/*.")
    to: dict[str, int] = Field(default_factory=dict, description="Locality of endpoints to percent; together 100.")

    @model_validator(mode="after")
    def _is_whole(self) -> "LocalityDistribute":
        if sum(self.to.values()) != 100:
            raise ValueError("to: the shares do not make 100 percent together")
        return self


class LocalityFailover(LenientModel):
    """Which region takes over."""

    from_: str = Field(alias="from", default="", description="Region of clients.")
    to: str = Field(default="", description="Region that takes over.")

    @model_validator(mode="after")
    def _moves(self) -> "LocalityFailover":
        if self.from_ == self.to:
            raise ValueError("from and to are the same region; name another one in to")
        return self


class LocalityLbSetting(LenientModel):
    """Preference for near endpoints."""

    distribute: tuple[LocalityDistribute, ...] = Field(default=(), description="Shares of localities.")
    failover: tuple[LocalityFailover, ...] = Field(default=(), description="Which region takes over.")
    failover_priority: tuple[str, ...] = Field(default=(), description="Labels in the order in which they count.")
    enabled: bool | None = Field(default=None, description="Whether it counts; as the mesh says if not given.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "LocalityLbSetting":
        if self.distribute and (self.failover or self.failover_priority):
            raise ValueError("distribute excludes failover and failoverPriority; keep one of them")
        return self


class Warmup(LenientModel):
    """New endpoints get their share of the load step by step."""

    duration: PositiveDuration = Field(description="How long.")
    minimum_percent: float | None = Field(default=None, ge=0, le=100, description="Share at the beginning.")
    aggression: float | None = Field(default=None, ge=1, description="How fast the share grows; 1 is linear.")


class LoadBalancer(LenientModel):
    """How an endpoint is chosen."""

    simple: SimpleLB | None = Field(default=None, description="An algorithm.")
    consistent_hash: ConsistentHashLB | None = Field(default=None, description="By a key of the request.")
    locality_lb_setting: LocalityLbSetting | None = Field(default=None, description="Preference for near endpoints.")
    warmup_duration_secs: PositiveDuration | None = Field(default=None, description="Deprecated; use warmup.")
    warmup: Warmup | None = Field(default=None, description="New endpoints get their share step by step.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "LoadBalancer":
        if self.simple is not None and self.consistent_hash is not None:
            raise ValueError("simple and consistentHash exclude each other; keep one of them")
        return self


class TcpKeepalive(LenientModel):
    """TCP keepalive of connections to endpoints."""

    probes: int = Field(default=0, ge=0, description="Lost probes until the connection counts as dead.")
    time: PositiveDuration | None = Field(default=None, description="Idle time before the first probe.")
    interval: PositiveDuration | None = Field(default=None, description="Time between probes.")


class TCPSettings(LenientModel):
    """Connections to endpoints."""

    max_connections: int = Field(default=0, ge=0, description="Connections at most; no limit if 0.")
    connect_timeout: PositiveDuration | None = Field(default=None, description="Until a connection is established.")
    tcp_keepalive: TcpKeepalive | None = Field(default=None, description="TCP keepalive.")
    max_connection_duration: PositiveDuration | None = Field(default=None, description="Life of a connection.")
    idle_timeout: Duration | None = Field(default=None, description="Of a connection without bytes; 0s: none.")


class HTTPSettings(LenientModel):
    """Requests to endpoints."""

    http1_max_pending_requests: int = Field(
        alias="http1MaxPendingRequests", default=0, ge=0, description="Requests that wait for a connection at most."
    )
    http2_max_requests: int = Field(
        alias="http2MaxRequests", default=0, ge=0, description="Active requests at most, HTTP/1.1 ones included."
    )
    max_requests_per_connection: int = Field(default=0, ge=0, description="Requests of one connection; 1: no reuse.")
    max_retries: int = Field(default=0, ge=0, description="Retries at a time at most.")
    idle_timeout: Duration | None = Field(default=None, description="Of a connection without requests.")
    h2_upgrade_policy: str = Field(alias="h2UpgradePolicy", default="DEFAULT", description="UPGRADE or DO_NOT_UPGRADE.")
    use_client_protocol: bool = Field(default=False, description="Whether the client's protocol is kept.")
    max_concurrent_streams: int = Field(default=0, ge=0, description="Streams of one HTTP/2 connection at most.")


class ConnectionPool(LenientModel):
    """Limits of connections and requests; beyond them, requests fail at once."""

    tcp: TCPSettings | None = Field(default=None, description="Connections.")
    http: HTTPSettings | None = Field(default=None, description="Requests.")


class OutlierDetection(LenientModel):
    """Endpoints that fail are ejected for a while."""

    split_external_local_origin_errors: bool = Field(default=False, description="Whether errors are told apart.")
    consecutive_local_origin_failures: int | None = Field(default=None, ge=0, description="Failures to connect.")
    consecutive_gateway_errors: int | None = Field(default=None, ge=0, description="Statuses 502, 503 and 504.")
    consecutive5xx_errors: int | None = Field(
        alias="consecutive5xxErrors", default=None, ge=0, description="Statuses from 500; 5 where it is not given."
    )
    consecutive_errors: int | None = Field(default=None, ge=0, description="Deprecated; use consecutiveGatewayErrors.")
    interval: PositiveDuration | None = Field(default=None, description="Time between sweeps; 10s if not given.")
    base_ejection_time: PositiveDuration | None = Field(default=None, description="Times the number of ejections.")
    max_ejection_percent: int = Field(default=0, ge=0, le=100, description="Share of endpoints; 10 if 0.")
    min_health_percent: int = Field(default=0, ge=0, le=100, description="Below it, all endpoints are used.")


class TLSMode(StrEnum):
    """How connections to endpoints are encrypted."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTLSSettings(LenientModel):
    """TLS towards the endpoints."""

    mode: TLSMode = Field(default=TLSMode.DISABLE, description="How connections are encrypted.")
    client_certificate: str = Field(default="", description="File of the certificate chain.")
    private_key: str = Field(default="", description="File of the key.")
    ca_certificates: str = Field(default="", description="File of the roots.")
    credential_name: str = Field(default="", description="Secret with certificate, key and roots.")
    subject_alt_names: tuple[str, ...] = Field(
        default=(), description="Names that the endpoint's certificate may have."
    )
    sni: str = Field(default="", description="Server name that is sent.")
    insecure_skip_verify: bool | None = Field(default=None, description="Whether the certificate is not verified.")
    ca_crl: str = Field(default="", description="File of the revocation list.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "ClientTLSSettings":
        files = self.client_certificate or self.private_key or self.ca_certificates
        if self.mode is TLSMode.MUTUAL and not self.credential_name:
            if not self.client_certificate:
                raise ValueError("mode MUTUAL needs clientCertificate or credentialName")
            if not self.private_key:
                raise ValueError("mode MUTUAL needs privateKey or credentialName")
        if self.credential_name and files:
            raise ValueError("credentialName excludes clientCertificate, privateKey and caCertificates")
        if self.mode is TLSMode.ISTIO_MUTUAL and (files or self.credential_name):
            raise ValueError("mode ISTIO_MUTUAL uses the mesh's own certificates; leave the others out")
        return self


class PortTrafficPolicy(LenientModel):
    """Settings for one port; they replace all others there."""

    port: PortSelector = Field(description="The port.")
    load_balancer: LoadBalancer | None = Field(default=None, description="How an endpoint is chosen.")
    connection_pool: ConnectionPool | None = Field(default=None, description="Limits.")
    outlier_detection: OutlierDetection | None = Field(default=None, description="Ejection of failing endpoints.")
    tls: ClientTLSSettings | None = Field(default=None, description="TLS.")


class TunnelSettings(LenientModel):
    """Connections go through an HTTP proxy."""

    protocol: str = Field(default="CONNECT", description="CONNECT or POST.")
    target_host: str = Field(description="Host to which the proxy connects.")
    target_port: int = Field(gt=0, le=65535, description="Port to which the proxy connects.")


class ProxyProtocol(LenientModel):
    """The PROXY protocol is spoken to endpoints."""

    version: str = Field(default="V1", description="V1 or V2.")


class RetryBudget(LenientModel):
    """Limits retries by the number of active requests."""

    percent: Percent | None = Field(default=None, description="Share of active requests; 20 % where not given.")
    min_retry_concurrency: int = Field(default=3, ge=0, description="Retries that are always possible.")
    budget_interval: PositiveDuration | None = Field(
        default=None, description="How far back requests count; only active ones where not given."
    )


class TrafficPolicy(LenientModel):
    """How endpoints are chosen and called."""

    load_balancer: LoadBalancer | None = Field(default=None, description="How an endpoint is chosen.")
    connection_pool: ConnectionPool | None = Field(default=None, description="Limits.")
    outlier_detection: OutlierDetection | None = Field(default=None, description="Ejection of failing endpoints.")
    tls: ClientTLSSettings | None = Field(default=None, description="TLS.")
    port_level_settings: tuple[PortTrafficPolicy, ...] = Field(default=(), description="Settings for single ports.")
    tunnel: TunnelSettings | None = Field(default=None, description="Connections through an HTTP proxy.")
    proxy_protocol: ProxyProtocol | None = Field(default=None, description="PROXY protocol.")
    retry_budget: RetryBudget | None = Field(default=None, description="Limit of retries.")


class Subset(LenientModel):
    """Some of a host's endpoints."""

    name: str = Field(min_length=1, description="Name, for routes.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels that endpoints must have, all of them.")
    traffic_policy: TrafficPolicy | None = Field(default=None, description="Settings for these endpoints.")


class DestinationRuleSpec(LenientModel):
    """How the endpoints of a host are chosen and called."""

    host: str = Field(min_length=1, description="Host name; a short one is of the rule's namespace.")
    traffic_policy: TrafficPolicy | None = Field(default=None, description="Settings for all endpoints.")
    subsets: tuple[Subset, ...] = Field(default=(), description="Named sets of endpoints.")
    export_to: tuple[str, ...] = Field(default=(), description="Namespaces where it counts: * (all) or . (own).")
    workload_selector: WorkloadSelector | None = Field(default=None, description="Clients that it counts for.")


class DestinationRule(ModelObject):
    """Settings for the endpoints of a host."""

    spec: DestinationRuleSpec
