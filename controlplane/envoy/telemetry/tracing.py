"""Spans of requests. Facts: Istio's ``pilot/pkg/networking/core/tracing.go``."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from envoy.config.core.v3 import base_pb2, extension_pb2, grpc_service_pb2, http_service_pb2, http_uri_pb2
from envoy.config.trace.v3 import opentelemetry_pb2, zipkin_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import environment_resource_detector_pb2
from envoy.extensions.tracers.opentelemetry.samplers.v3 import (
    parent_based_sampler_pb2,
    trace_id_ratio_based_sampler_pb2,
)
from envoy.type.tracing.v3 import custom_tag_pb2
from google.protobuf.message import Message

from controlplane.envoy import metrics
from controlplane.envoy.packing import duration, extension, flag, millionths, number, packed
from controlplane.inputs.mesh import MeshContext
from controlplane.routing.telemetry.tracing import Traces
from meshapi.mesh_config.log_providers import Collector
from meshapi.mesh_config.trace_providers import (
    Header,
    HttpService,
    OpenTelemetryTracing,
    TraceContextOption,
    ZipkinTracing,
)
from meshapi.resources import telemetry
from meshkit.kube import Key

Manager: Final = http_connection_manager_pb2.HttpConnectionManager
Tag: Final = custom_tag_pb2.CustomTag
_TIMEOUT: Final = timedelta(seconds=5)
_ALL: Final = 100.0
_OPTIONS: Final = {
    TraceContextOption.USE_B3: zipkin_pb2.ZipkinConfig.USE_B3,
    TraceContextOption.USE_B3_WITH_W3C_PROPAGATION: zipkin_pb2.ZipkinConfig.USE_B3_WITH_W3C_PROPAGATION,
}
_SAMPLERS: Final = "envoy.tracers.opentelemetry.samplers"
_MILLIONTHS_OF_PERCENT: Final = 10_000
_RBAC: Final = "envoy.filters.http.rbac"
_DRY_RUN: Final = {
    f"istio.authorization.dry_run.{action}_policy.{what}": f"istio_dry_run_{action}_{key}"
    for action in ("allow", "deny")
    for what, key in (("name", "shadow_effective_policy_id"), ("result", "shadow_engine_result"))
}
"""Tag to the metadata that the filter of dry-run policies leaves."""


@dataclass(frozen=True, slots=True)
class Spans:
    """How the spans of a service are reported.

    Attributes:
        traces: what users want.
        cluster: of the collector.
        view: key of the waypoint's Gateway.
        mesh: the mesh.
    """

    traces: Traces
    cluster: str
    view: Key
    mesh: MeshContext

    def apply(self, manager: http_connection_manager_pb2.HttpConnectionManager, operation: str) -> None:
        """Have a connection manager report spans: one of the request, and one of the call to the endpoint.

        Args:
            manager: the connection manager.
            operation: name of the spans.
        """
        traces, to = self.traces, manager.tracing
        to.client_sampling.value, to.overall_sampling.value = _ALL, _ALL
        # OpenTelemetry's tracer decides by itself: without a sampler it forgets what the request's headers say.
        is_sampler = isinstance(traces.provider.tracing, OpenTelemetryTracing)
        to.random_sampling.value = _ALL if is_sampler else traces.sampling
        to.spawn_upstream_span.value = True
        to.operation, to.upstream_operation = operation, operation
        if traces.max_path_length:
            to.max_path_tag_length.CopyFrom(number(traces.max_path_length))
        to.custom_tags.extend(self._tags())
        name, config = self._provider()
        to.provider.name = name
        to.provider.typed_config.CopyFrom(packed(config))
        if not traces.uses_request_id:
            request_id = uuid_pb2.UuidRequestIdConfig(use_request_id_for_trace_sampling=flag(False))
            manager.request_id_extension.typed_config.CopyFrom(packed(request_id))

    def _provider(self) -> tuple[str, Message]:
        to = self.traces.provider.tracing
        if isinstance(to, ZipkinTracing):
            return "envoy.tracers.zipkin", _zipkin(to, self.cluster)
        if isinstance(to, OpenTelemetryTracing):
            config = _opentelemetry(to, self.cluster, ".".join(reversed(self.view)))
            config.sampler.CopyFrom(_sampler(self.traces.sampling))
            return "envoy.tracers.opentelemetry", config
        raise TypeError(f"provider {self.traces.provider.name} takes no spans")

    def _tags(self) -> Iterator[custom_tag_pb2.CustomTag]:
        values = dict(metrics.peer_tags())
        if self.traces.has_istio_tags:
            yield from map(_dry_run, _DRY_RUN.items())
            values |= {
                "istio.canonical_service": self.view[1],
                "istio.canonical_revision": "latest",
                "istio.namespace": self.view[0],
                "istio.cluster_id": self.mesh.cluster_id,
                "istio.mesh_id": self.mesh.trust_domain,
            }
        for name, value in sorted(values.items()):
            if name not in self.traces.tags:
                yield Tag(tag=name, value=value)
        for name, tag in sorted(self.traces.tags.items()):
            yield _tag(name, tag)


def _dry_run(item: tuple[str, str]) -> custom_tag_pb2.CustomTag:
    name, key = item
    result = Tag(tag=name)
    result.metadata.kind.request.SetInParent()
    result.metadata.metadata_key.key = _RBAC
    result.metadata.metadata_key.path.add(key=key)
    return result


def _tag(name: str, tag: telemetry.CustomTag) -> custom_tag_pb2.CustomTag:
    if tag.literal is not None:
        return Tag(tag=name, literal=Tag.Literal(value=tag.literal.value))
    if tag.environment is not None:
        found = Tag.Environment(name=tag.environment.name, default_value=tag.environment.default_value)
        return Tag(tag=name, environment=found)
    if tag.header is not None:
        header = Tag.Header(name=tag.header.name, default_value=tag.header.default_value)
        return Tag(tag=name, request_header=header)
    return Tag(tag=name, value=tag.formatter.value if tag.formatter is not None else "")


def _zipkin(to: ZipkinTracing, cluster: str) -> zipkin_pb2.ZipkinConfig:
    service = HttpService(path=to.path, timeout=to.timeout, headers=to.headers)
    return zipkin_pb2.ZipkinConfig(
        collector_endpoint_version=zipkin_pb2.ZipkinConfig.HTTP_JSON,
        collector_service=_http(to, service, cluster),
        trace_id_128bit=not to.enable_64bit_trace_id,
        shared_span_context=flag(False),
        trace_context_option=_OPTIONS[to.trace_context_option],
    )


def _opentelemetry(to: OpenTelemetryTracing, cluster: str, service_name: str) -> opentelemetry_pb2.OpenTelemetryConfig:
    result = opentelemetry_pb2.OpenTelemetryConfig(service_name=service_name)
    if to.http is not None:
        result.http_service.CopyFrom(_http(to, to.http, cluster))
    else:
        envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster, authority=to.host)
        result.grpc_service.envoy_grpc.CopyFrom(envoy)
        if to.grpc is not None and to.grpc.timeout is not None:
            result.grpc_service.timeout.CopyFrom(duration(to.grpc.timeout))
        for header in to.grpc.initial_metadata if to.grpc is not None else ():
            result.grpc_service.initial_metadata.add(key=header.name, value=_value(header))
    if to.resource_detectors.environment is not None:
        detector = environment_resource_detector_pb2.EnvironmentResourceDetectorConfig()
        name = "envoy.tracers.opentelemetry.resource_detectors.environment"
        result.resource_detectors.append(extension(name, detector))
    return result


def _sampler(percentage: float) -> extension_pb2.TypedExtensionConfig:
    """Return a sampler that follows the decision that a request comes with, and decides for the others itself."""
    share = trace_id_ratio_based_sampler_pb2.TraceIdRatioBasedSamplerConfig(
        sampling_percentage=millionths(round(percentage * _MILLIONTHS_OF_PERCENT))
    )
    inner = extension(f"{_SAMPLERS}.trace_id_ratio_based", share)
    return extension(
        f"{_SAMPLERS}.parent_based", parent_based_sampler_pb2.ParentBasedSamplerConfig(wrapped_sampler=inner)
    )


def _http(to: Collector, service: HttpService, cluster: str) -> http_service_pb2.HttpService:
    path = service.path if service.path.startswith("/") else f"/{service.path}"
    uri = http_uri_pb2.HttpUri(
        uri=f"http://{to.host}{path}", cluster=cluster, timeout=duration(service.timeout or _TIMEOUT)
    )
    result = http_service_pb2.HttpService(http_uri=uri)
    for header in service.headers:
        value = base_pb2.HeaderValue(key=header.name, value=_value(header))
        result.request_headers_to_add.add(header=value)
    return result


def _value(header: Header) -> str:
    """Return the value; a percent sign in it is no operator."""
    return f"%ENVIRONMENT({header.env_name})%" if header.env_name else header.value.replace("%", "%%")
