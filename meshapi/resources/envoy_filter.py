"""EnvoyFilter, in full, with Istio's field names: changes of what the proxies of some objects are configured with.

Source: istio/api, networking/v1alpha3/envoy_filter.proto; what is refused, istio/istio, pkg/config/validation.
Values are messages of Envoy's as JSON. They are read where they are applied, because the model knows no message.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, model_validator

from meshapi.resources import networking
from meshapi.resources.base import LenientModel, ModelObject
from meshapi.resources.security import PolicyTargetReference

_HTTP_MANAGER: Final = "envoy.filters.network.http_connection_manager"
_MAX_PATTERN: Final = 1024
_MAX_PORT: Final = 65535
_MAX_PRIORITY: Final = 2**31 - 1
_MAX_TARGETS: Final = 16


def _pattern(value: str) -> str:
    if len(value) > _MAX_PATTERN:
        raise ValueError(f"is longer than {_MAX_PATTERN} characters; write a shorter expression")
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression ({error}); write as ^1\\.2.*") from None
    return value


class ApplyTo(StrEnum):
    """What of a proxy's configuration is patched."""

    INVALID = "INVALID"
    LISTENER = "LISTENER"
    FILTER_CHAIN = "FILTER_CHAIN"
    NETWORK_FILTER = "NETWORK_FILTER"
    HTTP_FILTER = "HTTP_FILTER"
    ROUTE_CONFIGURATION = "ROUTE_CONFIGURATION"
    VIRTUAL_HOST = "VIRTUAL_HOST"
    HTTP_ROUTE = "HTTP_ROUTE"
    CLUSTER = "CLUSTER"
    EXTENSION_CONFIG = "EXTENSION_CONFIG"
    BOOTSTRAP = "BOOTSTRAP"
    LISTENER_FILTER = "LISTENER_FILTER"


class PatchContext(StrEnum):
    """Which proxies are patched, and for which traffic."""

    ANY = "ANY"
    SIDECAR_INBOUND = "SIDECAR_INBOUND"
    SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
    GATEWAY = "GATEWAY"
    WAYPOINT = "WAYPOINT"


class Operation(StrEnum):
    """How something is patched."""

    INVALID = "INVALID"
    MERGE = "MERGE"
    ADD = "ADD"
    REMOVE = "REMOVE"
    INSERT_BEFORE = "INSERT_BEFORE"
    INSERT_AFTER = "INSERT_AFTER"
    INSERT_FIRST = "INSERT_FIRST"
    REPLACE = "REPLACE"
    MERGE_AND_REPLACE_LIST = "MERGE_AND_REPLACE_LIST"


class FilterClass(StrEnum):
    """Behind which filters of the control plane one is added."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class RouteAction(StrEnum):
    """What a route does."""

    ANY = "ANY"
    ROUTE = "ROUTE"
    REDIRECT = "REDIRECT"
    DIRECT_RESPONSE = "DIRECT_RESPONSE"


_PORT = Annotated[int, Field(ge=0, le=_MAX_PORT, description="Port of the service; 0: any.")]


class ProxyMatch(LenientModel):
    """Which proxies."""

    proxy_version: Annotated[str, AfterValidator(_pattern)] = Field(default="", description="RE2 for their version.")
    metadata: dict[str, str] = Field(default_factory=dict, description="Metadata of their nodes.")


class SubFilterMatch(LenientModel):
    """A filter in a filter."""

    name: str = Field(default="", description="Name of the filter.")


class FilterMatch(LenientModel):
    """A filter."""

    name: str = Field(default="", description="Name of the filter.")
    sub_filter: SubFilterMatch | None = Field(default=None, description="HTTP filter in the connection manager.")


class FilterChainMatch(LenientModel):
    """A filter chain: all given fields must match."""

    name: str = Field(default="", description="Name of the chain.")
    sni: str = Field(default="", description="One of the server names of its match.")
    transport_protocol: str = Field(default="", description="Of its match, as tls.")
    application_protocols: str = Field(default="", description="Of its match, separated by commas.")
    filter: FilterMatch | None = Field(default=None, description="Filter in the chain.")
    destination_port: int = Field(default=0, ge=0, le=_MAX_PORT, description="Of its match.")


class ListenerMatch(LenientModel):
    """A listener: all given fields must match."""

    port_number: _PORT = 0
    port_name: str = Field(default="", description="Has no meaning in Istio either.")
    filter_chain: FilterChainMatch | None = Field(default=None, description="Filter chain of the listener.")
    listener_filter: str = Field(default="", description="Name of a listener filter.")
    name: str = Field(default="", description="Name of the listener.")


class RouteMatch(LenientModel):
    """A route: all given fields must match."""

    name: str = Field(default="", description="Name of the route.")
    action: RouteAction = Field(default=RouteAction.ANY, description="What the route does.")


class VirtualHostMatch(LenientModel):
    """A virtual host: all given fields must match."""

    name: str = Field(default="", description="Name of the virtual host.")
    domain_name: str = Field(default="", description="One of its domains.")
    route: RouteMatch | None = Field(default=None, description="Route of the virtual host.")


class RouteConfigurationMatch(LenientModel):
    """The routes of a port: all given fields must match."""

    port_number: _PORT = 0
    port_name: str = Field(default="", description="Of gateways only.")
    gateway: str = Field(default="", description="Of gateways only.")
    vhost: VirtualHostMatch | None = Field(default=None, description="Virtual host.")
    name: str = Field(default="", description="Name of the routes.")


class ClusterMatch(LenientModel):
    """A cluster: all given fields must match; with a name, only this counts."""

    port_number: _PORT = 0
    service: str = Field(default="", description="Host of the service.")
    subset: str = Field(default="", description="Subset of the service.")
    name: str = Field(default="", description="Name of the cluster.")


class WaypointMatch(LenientModel):
    """A part of a waypoint's configuration: all given fields must match."""

    port_number: _PORT = 0
    route: RouteMatch | None = Field(default=None, description="Route.")
    filter: FilterMatch | None = Field(default=None, description="Filter.")


class ObjectMatch(LenientModel):
    """What is patched."""

    context: PatchContext = Field(default=PatchContext.ANY, description="Which proxies, and for which traffic.")
    proxy: ProxyMatch | None = Field(default=None, description="Version and metadata of the proxy.")
    listener: ListenerMatch | None = Field(default=None, description="Listener, filter chain and filter.")
    route_configuration: RouteConfigurationMatch | None = Field(
        default=None, description="Routes, virtual host and route."
    )
    cluster: ClusterMatch | None = Field(default=None, description="Cluster.")
    waypoint: WaypointMatch | None = Field(default=None, description="Port, filter and route of a waypoint.")

    @model_validator(mode="after")
    def _is_one(self) -> "ObjectMatch":
        kinds = (self.listener, self.route_configuration, self.cluster, self.waypoint)
        if sum(item is not None for item in kinds) > 1:
            raise ValueError("listener, routeConfiguration, cluster and waypoint exclude each other; keep one of them")
        return self


class Patch(LenientModel):
    """A change."""

    operation: Operation = Field(default=Operation.INVALID, description="How it is changed.")
    value: dict[str, Any] | None = Field(default=None, description="What is added or merged.")
    filter_class: FilterClass = Field(
        default=FilterClass.UNSPECIFIED, description="AUTHN, AUTHZ or STATS: behind or before which filters."
    )


_LISTENERS: Final = frozenset({ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN, ApplyTo.NETWORK_FILTER, ApplyTo.HTTP_FILTER})
_ROUTES: Final = frozenset({ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE})


class ConfigPatch(LenientModel):
    """One change of a proxy's configuration."""

    apply_to: ApplyTo = Field(default=ApplyTo.INVALID, description="What is patched.")
    match: ObjectMatch | None = Field(default=None, description="Which of these; all where it is not given.")
    patch: Patch | None = Field(default=None, description="The change.")

    @model_validator(mode="after")
    def _is_complete(self) -> "ConfigPatch":
        if self.apply_to is ApplyTo.INVALID:
            raise ValueError("applyTo is missing; say what is patched, as HTTP_FILTER")
        if self.patch is None or self.patch.operation is Operation.INVALID:
            raise ValueError("patch.operation is missing; say how it is patched, as MERGE")
        if self.patch.value is None and self.patch.operation is not Operation.REMOVE:
            raise ValueError(f"patch.value is missing; {self.patch.operation} needs one")
        return self

    @model_validator(mode="after")
    def _matches_its_kind(self) -> "ConfigPatch":
        """What is matched has to be of the kind that is patched."""
        match = self.match
        if match is None or match.waypoint is not None:
            return self
        given = {"listener": match.listener, "routeConfiguration": match.route_configuration, "cluster": match.cluster}
        wanted = _matched_by(self.apply_to)
        wrong = [name for name, one in given.items() if one is not None and name != wanted]
        if wanted and wrong:
            raise ValueError(f"match.{wrong[0]} does not fit applyTo {self.apply_to}; write match.{wanted}")
        chain = match.listener.filter_chain if match.listener is not None else None
        if chain is not None and chain.filter is not None:
            _check_filter(self.apply_to, chain.filter)
        return self


def _matched_by(apply_to: ApplyTo) -> str:
    """Return the field of a match for what is patched; empty: Istio takes any."""
    if apply_to in _LISTENERS:
        return "listener"
    if apply_to in _ROUTES:
        return "routeConfiguration"
    return "cluster" if apply_to is ApplyTo.CLUSTER else ""


def _check_filter(apply_to: ApplyTo, match: FilterMatch) -> None:
    if not match.name:
        raise ValueError(f"match.listener.filterChain.filter.name is missing; write as {_HTTP_MANAGER}")
    if match.sub_filter is None:
        return
    if apply_to is not ApplyTo.HTTP_FILTER:
        raise ValueError("match.listener.filterChain.filter.subFilter is for applyTo HTTP_FILTER only; remove it")
    if match.name != _HTTP_MANAGER:
        raise ValueError(f"match.listener.filterChain.filter.name of a subFilter has to be {_HTTP_MANAGER}")
    if not match.sub_filter.name:
        raise ValueError("match.listener.filterChain.filter.subFilter.name is missing; name an HTTP filter")


class EnvoyFilterSpec(LenientModel):
    """Changes of proxies' configuration."""

    workload_selector: networking.WorkloadSelector | None = Field(default=None, description="Pods of the proxies.")
    target_refs: tuple[PolicyTargetReference, ...] = Field(
        default=(), max_length=_MAX_TARGETS, description="Objects whose proxies are meant."
    )
    config_patches: tuple[ConfigPatch, ...] = Field(default=(), description="The changes.")
    priority: int = Field(default=0, ge=-_MAX_PRIORITY - 1, le=_MAX_PRIORITY, description="Lower ones come first.")

    @model_validator(mode="after")
    def _is_consistent(self) -> "EnvoyFilterSpec":
        if self.workload_selector is not None and self.target_refs:
            raise ValueError("workloadSelector and targetRefs exclude each other; keep one of them")
        return self


class EnvoyFilter(ModelObject):
    """Changes of proxies' configuration."""

    spec: EnvoyFilterSpec = EnvoyFilterSpec()
