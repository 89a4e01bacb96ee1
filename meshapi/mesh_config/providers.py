"""``extensionProviders`` of MeshConfig, and external authorizers. Source: istio/api, ``mesh/v1alpha1/config.proto``.

Header lists: a name, or with ``*`` at the beginning or the end a pattern; case does not count.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from meshapi.mesh_config.log_providers import Collector, ConnectionLog, FileLog, Message, OpenTelemetryLog, RequestLog
from meshapi.mesh_config.trace_providers import OpenTelemetryTracing, ZipkinTracing
from meshapi.resources.values import Duration


def _header(value: str) -> str:
    if not value or value == "*":
        raise ValueError("is no header; write a name, or a pattern such as x-*")
    return value


def _status(value: Any) -> int:
    number = int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
    if not 100 <= number < 600:
        raise ValueError("is not an HTTP status; write a number from 100 to 599")
    return number


Header = Annotated[str, AfterValidator(_header)]
Status = Annotated[int, BeforeValidator(_status)]


class RequestBody(Message):
    """How much of a request's body the authorizer gets."""

    max_request_bytes: int = Field(ge=1)
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class ExternalAuthorizer(Collector):
    """What both kinds of authorizers have."""

    timeout: Duration | None = None
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: Status | None = None
    include_request_body_in_check: RequestBody | None = None


class HttpAuthorizer(ExternalAuthorizer):
    """An authorizer that is asked over HTTP: status 200 allows."""

    path_prefix: str = ""
    include_request_headers_in_check: tuple[Header, ...] = ()
    include_headers_in_check: tuple[Header, ...] = ()
    """The former name of ``include_request_headers_in_check``."""
    include_additional_headers_in_check: dict[str, str] = Field(default_factory=dict)
    headers_to_upstream_on_allow: tuple[Header, ...] = ()
    headers_to_downstream_on_deny: tuple[Header, ...] = ()
    headers_to_downstream_on_allow: tuple[Header, ...] = ()


class GrpcAuthorizer(ExternalAuthorizer):
    """An authorizer that is asked by Envoy's ``envoy.service.auth.v3.Authorization``."""


class Prometheus(Message):
    """Metrics that are fetched from the proxy."""


AccessLog = FileLog | OpenTelemetryLog | RequestLog | ConnectionLog


class ExtensionProvider(Message):
    """A provider that policies and telemetry name. Kinds that are not known here are reported as without effect."""

    name: str = Field(min_length=1)
    envoy_ext_authz_http: HttpAuthorizer | None = None
    envoy_ext_authz_grpc: GrpcAuthorizer | None = None
    envoy_file_access_log: FileLog | None = None
    envoy_otel_als: OpenTelemetryLog | None = None
    envoy_http_als: RequestLog | None = None
    envoy_tcp_als: ConnectionLog | None = None
    prometheus: Prometheus | None = None
    opentelemetry: OpenTelemetryTracing | None = None
    zipkin: ZipkinTracing | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "ExtensionProvider":
        fields = type(self).model_fields
        kinds = [one.alias or name for name, one in fields.items() if name != "name" and getattr(self, name)]
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)} exclude each other; write one provider for each")
        return self

    @property
    def authorizer(self) -> HttpAuthorizer | GrpcAuthorizer | None:
        """The external authorizer, if the provider is one."""
        return self.envoy_ext_authz_http or self.envoy_ext_authz_grpc

    @property
    def access_log(self) -> AccessLog | None:
        """Where access logs go, if the provider takes them."""
        return self.envoy_file_access_log or self.envoy_otel_als or self.envoy_http_als or self.envoy_tcp_als

    @property
    def tracing(self) -> OpenTelemetryTracing | ZipkinTracing | None:
        """Where spans go, if the provider takes them."""
        return self.opentelemetry or self.zipkin


ENVOY: Final = "envoy"
"""The provider for access logs that is always there: it logs to the proxy's output, as ``accessLogFormat`` says."""
PROMETHEUS: Final = "prometheus"
"""The provider for metrics that is always there."""
_BUILT_IN: Final = (
    ExtensionProvider(name=PROMETHEUS, prometheus=Prometheus()),
    ExtensionProvider(name=ENVOY, envoy_file_access_log=FileLog()),
)


def by_name(providers: Iterable[ExtensionProvider]) -> dict[str, ExtensionProvider]:
    """Return providers, and those that are always there, by name in lower case: telemetry does not look at case."""
    return {one.name.lower(): one for one in (*_BUILT_IN, *providers)}


def named_once(providers: tuple[ExtensionProvider, ...]) -> tuple[ExtensionProvider, ...]:
    """Check that no two providers have one name."""
    found: set[str] = set()
    for provider in providers:
        if provider.name in found:
            raise ValueError(f"the name {provider.name} is given twice; names are unique")
        found.add(provider.name)
    return providers
