"""``extensionProviders`` that take spans, and ``defaultConfig.tracing``. Source: istio/api, ``mesh/v1alpha1``."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from meshapi.mesh_config.log_providers import Collector, HeaderName, Message
from meshapi.resources.telemetry import CustomTag
from meshapi.resources.values import PositiveDuration


class Header(Message):
    """A header of what is sent to a collector: its value, or the environment variable of the proxy that has it."""

    name: HeaderName
    value: str = ""
    env_name: str = ""

    @model_validator(mode="after")
    def _has_one_value(self) -> "Header":
        if self.value and self.env_name:
            raise ValueError("value and envName exclude each other; keep one of them")
        if any(one in self.value + self.env_name for one in "\r\n\0"):
            raise ValueError("has a line break, which no header has; remove it")
        return self


class HttpService(Message):
    """How spans are sent over HTTP."""

    path: str = "/"
    timeout: PositiveDuration | None = None
    headers: tuple[Header, ...] = ()


class GrpcService(Message):
    """How spans are sent over gRPC."""

    timeout: PositiveDuration | None = None
    initial_metadata: tuple[Header, ...] = ()


class ResourceDetectors(Message):
    """Where attributes of the resource come from."""

    environment: dict[str, Any] | None = None
    """The variable ``OTEL_RESOURCE_ATTRIBUTES`` of the proxy."""


class TraceCollector(Collector):
    """What takes spans."""

    max_tag_length: int = Field(default=0, ge=0)
    """Of the tag with the path; 0: Envoy's own."""


class OpenTelemetryTracing(TraceCollector):
    """A collector of OpenTelemetry's spans, over gRPC unless ``http`` is given."""

    http: HttpService | None = None
    grpc: GrpcService | None = None
    resource_detectors: ResourceDetectors = ResourceDetectors()

    @property
    def is_grpc(self) -> bool:
        """Whether it is spoken to in gRPC."""
        return self.http is None


class TraceContextOption(StrEnum):
    """Which headers carry the context of a trace."""

    USE_B3 = "USE_B3"
    USE_B3_WITH_W3C_PROPAGATION = "USE_B3_WITH_W3C_PROPAGATION"


def _option(given: Any) -> Any:
    options = tuple(TraceContextOption)
    is_number = isinstance(given, int) and not isinstance(given, bool)
    return options[given] if is_number and 0 <= given < len(options) else given


class ZipkinTracing(TraceCollector):
    """A collector of Zipkin's spans, version 2 in JSON."""

    enable_64bit_trace_id: bool = Field(default=False, alias="enable64bitTraceId")
    path: str = "/api/v2/spans"
    trace_context_option: Annotated[TraceContextOption, BeforeValidator(_option)] = TraceContextOption.USE_B3
    timeout: PositiveDuration | None = None
    headers: tuple[Header, ...] = ()

    @property
    def is_grpc(self) -> bool:
        """Whether it is spoken to in gRPC."""
        return False


class ProxyTracing(Message):
    """What holds for traces where a Telemetry says nothing (``defaultConfig.tracing``)."""

    sampling: float = Field(default=0, ge=0, le=100)
    """Percentage; 0: 1 %."""
    custom_tags: dict[str, CustomTag] = Field(default_factory=dict)
    max_path_tag_length: int = Field(default=0, ge=0)
