"""``telemetry.istio.io``: Telemetry, in full, with Istio's field names.

Source: istio/api, telemetry/v1alpha1/telemetry.proto (v1 is the same); what is refused: Istio's
``pkg/config/validation`` and the checks of the definition's schema. Expressions are checked as the proxy would: it
refuses a listener with one bad expression as a whole.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from meshapi import cel
from meshapi.mesh_config import access_log_format
from meshapi.mesh_config.log_providers import HeaderName
from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.security import PolicyTargetReference
from meshapi.resources.values import Duration, WorkloadSelector, exactly_one

_MAX_TARGETS = 16


def _format(value: str) -> str:
    access_log_format.check_envoy(value)
    return value


def _filter(value: str) -> str:
    cel.check(value, cel.PLAIN_FUNCTIONS | cel.TEXT_FUNCTIONS)
    return value


class WorkloadMode(StrEnum):
    """Which side of the traffic a proxy is on."""

    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"

    def covers(self, side: "WorkloadMode") -> bool:
        """Return whether this is for proxies on a side."""
        return self in {WorkloadMode.CLIENT_AND_SERVER, side}


class Selector(LenientModel):
    """Chooses the side of the traffic."""

    mode: WorkloadMode = Field(default=WorkloadMode.CLIENT_AND_SERVER, description="Side of the traffic.")


class ProviderRef(LenientModel):
    """Names a provider."""

    name: str = Field(min_length=1, description="Name in the mesh configuration's extensionProviders.")


class Literal(LenientModel):
    """A tag with the same value in each span."""

    value: str = Field(min_length=1, description="The value.")


class Environment(LenientModel):
    """A tag with the value of an environment variable of the proxy."""

    name: str = Field(min_length=1, description="Name of the variable.")
    default_value: str = Field(default="", description="Where there is no such variable.")


class RequestHeader(LenientModel):
    """A tag with the value of a request's header."""

    name: HeaderName = Field(description="Name of the header.")
    default_value: str = Field(default="", description="Where there is no such header.")


class Formatter(LenientModel):
    """A tag whose value is a format of the access log."""

    value: Annotated[str, AfterValidator(_format)] = Field(
        min_length=1, description="The format, as %REQUESTED_SERVER_NAME%."
    )


class CustomTag(LenientModel):
    """Where the value of a tag is from: exactly one of the fields."""

    literal: Literal | None = Field(default=None, description="The value itself.")
    environment: Environment | None = Field(default=None, description="Environment variable of the proxy.")
    header: RequestHeader | None = Field(default=None, description="Header of the request.")
    formatter: Formatter | None = Field(default=None, description="Format of the access log.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "CustomTag":
        exactly_one({name: getattr(self, name) for name in ("literal", "environment", "header", "formatter")})
        return self


class Tracing(LenientModel):
    """Whether and how spans are reported."""

    match: Selector = Field(default=Selector(), description="Which traffic it is for.")
    providers: tuple[ProviderRef, ...] = Field(default=(), description="Where spans go; the first one counts.")
    random_sampling_percentage: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None, description="Share of the requests without a decision that are traced, from 0 to 100."
    )
    disable_span_reporting: bool | None = Field(default=None, description="Whether no spans are reported.")
    custom_tags: dict[str, CustomTag] | None = Field(
        default=None, description="More tags of spans, by name; they replace those of the parents."
    )
    use_request_id_for_trace_sampling: bool | None = Field(
        default=None, description="Whether the request's ID decides, as Envoy writes it."
    )
    enable_istio_tags: bool | None = Field(default=None, description="Whether spans have Istio's tags.")
    disable_context_propagation: bool | None = Field(
        default=None, description="Whether requests go on without the headers of traces."
    )

    @field_validator("custom_tags")
    @classmethod
    def _are_named(cls, value: dict[str, CustomTag] | None) -> dict[str, CustomTag] | None:
        if value is not None and "" in value:
            raise ValueError("has a tag without a name; name it")
        return value


class IstioMetric(StrEnum):
    """The standard metrics."""

    ALL_METRICS = "ALL_METRICS"
    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


class MetricSelector(LenientModel):
    """Chooses metrics; without a name all of them."""

    metric: IstioMetric | None = Field(default=None, description="A standard metric.")
    custom_metric: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="Any other metric.")
    mode: WorkloadMode = Field(default=WorkloadMode.CLIENT_AND_SERVER, description="Side of the traffic.")

    @model_validator(mode="after")
    def _names_one(self) -> "MetricSelector":
        if self.metric is not None and self.custom_metric is not None:
            raise ValueError("metric and customMetric exclude each other; keep one of them")
        return self

    @property
    def is_all(self) -> bool:
        """Whether it chooses all metrics."""
        return self.custom_metric is None and self.metric in {None, IstioMetric.ALL_METRICS}


class Operation(StrEnum):
    """What happens to a label."""

    UPSERT = "UPSERT"
    REMOVE = "REMOVE"


class TagOverride(LenientModel):
    """A change of a metric's label."""

    operation: Operation = Field(default=Operation.UPSERT, description="Whether it is set or left out.")
    value: str = Field(default="", description="Expression (CEL) of the label that is set.")

    @model_validator(mode="after")
    def _has_value(self) -> "TagOverride":
        if self.operation is Operation.REMOVE and self.value:
            raise ValueError("value is for UPSERT only; remove it, or the operation")
        if self.operation is Operation.UPSERT:
            if not self.value:
                raise ValueError("UPSERT needs a value; write an expression, as request.host")
            cel.check(self.value, cel.PLAIN_FUNCTIONS | {"string"})
            # The proxy writes every value as text, and has no functions to do so within an expression.
            for part in cel.joined(self.value):
                cel.check(cel.without_percent(cel.without_outer_string(part)), cel.PLAIN_FUNCTIONS)
        return self


class MetricsOverrides(LenientModel):
    """A change of metrics."""

    match: MetricSelector = Field(default=MetricSelector(), description="Which metrics; without it all.")
    disabled: bool | None = Field(default=None, description="Whether they are not reported.")
    tag_overrides: dict[str, TagOverride] = Field(default_factory=dict, description="Changes of labels, by name.")


class Metrics(LenientModel):
    """Which metrics are reported, and with which labels."""

    providers: tuple[ProviderRef, ...] = Field(default=(), description="Whose metrics; without it the parent's.")
    overrides: tuple[MetricsOverrides, ...] = Field(default=(), description="Changes; later ones count more.")
    reporting_interval: Duration | None = Field(default=None, description="Time between reports of TCP metrics.")


class LogFilter(LenientModel):
    """Which requests and connections are logged."""

    expression: Annotated[str, AfterValidator(_filter)] = Field(description="Expression (CEL) that has to be true.")


class AccessLogging(LenientModel):
    """Whether and where requests and connections are logged."""

    match: Selector = Field(default=Selector(), description="Which traffic it is for.")
    providers: tuple[ProviderRef, ...] = Field(default=(), description="Which logs; without it the parent's.")
    disabled: bool | None = Field(default=None, description="Whether nothing is logged.")
    filter: LogFilter | None = Field(default=None, description="What is logged; without it everything.")


class TelemetrySpec(LenientModel):
    """What proxies report of the traffic. Without selector and targetRefs it is for a namespace, or for all of them."""

    selector: WorkloadSelector | None = Field(
        default=None, description="Pods that it is for; waypoints need targetRefs."
    )
    target_ref: PolicyTargetReference | None = Field(default=None, description="One target; use targetRefs.")
    target_refs: tuple[PolicyTargetReference, ...] = Field(default=(), description="Objects that it is for.")
    tracing: tuple[Tracing, ...] = Field(default=(), description="Traces.")
    metrics: tuple[Metrics, ...] = Field(default=(), description="Metrics.")
    access_logging: tuple[AccessLogging, ...] = Field(default=(), description="Access logs.")

    @field_validator("target_refs")
    @classmethod
    def _are_few(cls, value: tuple[PolicyTargetReference, ...]) -> tuple[PolicyTargetReference, ...]:
        if len(value) > _MAX_TARGETS:
            raise ValueError(f"has {len(value)} targets; name at most {_MAX_TARGETS}, or write a second Telemetry")
        return value

    @model_validator(mode="after")
    def _has_one_scope(self) -> "TelemetrySpec":
        given = {"selector": self.selector, "targetRef": self.target_ref, "targetRefs": self.target_refs}
        named = [name for name, value in given.items() if value]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other; keep one of them")
        return self

    @property
    def targets(self) -> tuple[PolicyTargetReference, ...]:
        """What it is attached to."""
        return self.target_refs or (() if self.target_ref is None else (self.target_ref,))

    @property
    def is_for_namespace(self) -> bool:
        """Whether it is for everything in its namespace."""
        return not self.targets and (self.selector is None or not self.selector.match_labels)


class Telemetry(ModelObject):
    """What proxies report of the traffic."""

    spec: TelemetrySpec = TelemetrySpec()
