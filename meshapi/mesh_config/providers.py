"""``extensionProviders`` of MeshConfig: external authorizers. Source: istio/api, ``mesh/v1alpha1/config.proto``.

Header lists: a name, or with ``*`` at the beginning or the end a pattern; case does not count.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from meshapi.resources.base import Model
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


class _Message(Model):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")


class RequestBody(_Message):
    """How much of a request's body the authorizer gets."""

    max_request_bytes: int = Field(ge=1)
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class ExternalAuthorizer(_Message):
    """What both kinds of authorizers have."""

    service: str = Field(min_length=1)
    """``namespace/host`` or ``host``."""
    port: int = Field(ge=1, le=65535)
    timeout: Duration | None = None
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: Status | None = None
    include_request_body_in_check: RequestBody | None = None

    @property
    def host(self) -> str:
        """The host name of the service."""
        return self.service.rpartition("/")[2]


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


class ExtensionProvider(_Message):
    """A provider that policies name. Kinds that are not known here are reported as fields without effect."""

    name: str = Field(min_length=1)
    envoy_ext_authz_http: HttpAuthorizer | None = None
    envoy_ext_authz_grpc: GrpcAuthorizer | None = None

    @property
    def authorizer(self) -> HttpAuthorizer | GrpcAuthorizer | None:
        """The external authorizer, if the provider is one."""
        return self.envoy_ext_authz_http or self.envoy_ext_authz_grpc


def named_once(providers: tuple[ExtensionProvider, ...]) -> tuple[ExtensionProvider, ...]:
    """Check that no two providers have one name."""
    found: set[str] = set()
    for provider in providers:
        if provider.name in found:
            raise ValueError(f"the name {provider.name} is given twice; names are unique")
        found.add(provider.name)
    return providers
