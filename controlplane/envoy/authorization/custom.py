"""Policies with action CUSTOM: an external authorizer decides. Facts: Istio's ``authz/builder/extauthz.go``.

A filter in front of the authorizer's only looks which requests the policies match, and notes it in metadata; the
authorizer is asked for those. Fails closed: an unknown provider, an authorizer that does not answer (unless its
provider says otherwise), and connections that carry no requests are refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

from envoy.config.core.v3 import grpc_service_pb2, http_uri_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.type.matcher.v3 import string_pb2, value_pb2

from controlplane.envoy.authorization import rules, texts
from controlplane.envoy.packing import duration, packed
from controlplane.routing.ir import Target
from meshapi.mesh_config.providers import ExtensionProvider, GrpcAuthorizer, HttpAuthorizer
from meshapi.resources.security import Action, AuthorizationPolicy

HttpFilter: Final = http_connection_manager_pb2.HttpFilter
ExtAuthz: Final = ext_authz_pb2.ExtAuthz
_RBAC: Final = "envoy.filters.http.rbac"
_EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
_TIMEOUT: Final = timedelta(seconds=600)
_POLICY_ID: Final = "shadow_effective_policy_id"
Clusters = Callable[[Target], str]


def of_requests(
    policies: Sequence[AuthorizationPolicy], providers: Mapping[str, ExtensionProvider], clusters: Clusters
) -> Iterator[http_connection_manager_pb2.HttpFilter]:
    """Yield the filters for requests.

    Args:
        policies: all that count for a service.
        providers: of the mesh configuration, by name.
        clusters: returns the cluster of an authorizer.
    """
    for name, chosen in _by_provider(policies).items():
        provider = providers.get(name)
        authorizer = None if provider is None else provider.authorizer
        if authorizer is None:
            refused = http_rbac_pb2.RBAC(rules=rules.of_policies(chosen, rules.RBAC.DENY, is_http=True))
            yield HttpFilter(name=_RBAC, typed_config=packed(refused))
            continue
        prefix = f"istio_ext_authz_{name}_"
        noted = http_rbac_pb2.RBAC(
            shadow_rules=rules.of_policies(chosen, rules.RBAC.DENY, is_http=True), shadow_rules_stat_prefix=prefix
        )
        yield HttpFilter(name=_RBAC, typed_config=packed(noted))
        config = _authorizer(authorizer, clusters(Target(authorizer.host, authorizer.port)))
        matched = value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(prefix="ns["))
        config.filter_enabled_metadata.CopyFrom(texts.metadata(_RBAC, (f"{prefix}{_POLICY_ID}",), matched))
        yield HttpFilter(name=_EXT_AUTHZ, typed_config=packed(config))


def of_connections(policies: Sequence[AuthorizationPolicy], prefix: str) -> Iterator[listener_components_pb2.Filter]:
    """Yield the filter for connections that carry no requests: it refuses what a policy matches.

    Envoy asks an external authorizer about requests, so there is no question that it could send.
    """
    chosen = [one for one in policies if one.spec.action is Action.CUSTOM]
    if chosen:
        config = network_rbac_pb2.RBAC(
            stat_prefix=f"{prefix}.", rules=rules.of_policies(chosen, rules.RBAC.DENY, is_http=False)
        )
        yield listener_components_pb2.Filter(name="envoy.filters.network.rbac", typed_config=packed(config))


def _by_provider(policies: Sequence[AuthorizationPolicy]) -> dict[str, list[AuthorizationPolicy]]:
    found: dict[str, list[AuthorizationPolicy]] = {}
    for policy in sorted(policies, key=lambda one: one.key):
        if policy.spec.action is Action.CUSTOM:
            name = policy.spec.provider.name if policy.spec.provider is not None else ""
            found.setdefault(name, []).append(policy)
    return found


def _authorizer(authorizer: HttpAuthorizer | GrpcAuthorizer, cluster: str) -> ext_authz_pb2.ExtAuthz:
    timeout = duration(authorizer.timeout or _TIMEOUT)
    result = ExtAuthz(
        transport_api_version="V3",
        failure_mode_allow=authorizer.fail_open,
        clear_route_cache=authorizer.clear_route_cache,
    )
    if isinstance(authorizer, GrpcAuthorizer):
        envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster, authority=authorizer.host)
        result.grpc_service.CopyFrom(grpc_service_pb2.GrpcService(envoy_grpc=envoy, timeout=timeout))
    else:
        uri = http_uri_pb2.HttpUri(uri=f"http://{authorizer.host}:{authorizer.port}", cluster=cluster, timeout=timeout)
        result.http_service.CopyFrom(_http_service(authorizer, uri))
        names = (*authorizer.include_request_headers_in_check, *authorizer.include_headers_in_check)
        result.allowed_headers.patterns.extend(map(_header, names))
    if authorizer.status_on_error:
        result.status_on_error.code = authorizer.status_on_error
    body = authorizer.include_request_body_in_check
    if body is not None:
        result.with_request_body.max_request_bytes = body.max_request_bytes
        result.with_request_body.allow_partial_message = body.allow_partial_message
        result.with_request_body.pack_as_bytes = body.pack_as_bytes
    return result


def _http_service(authorizer: HttpAuthorizer, uri: http_uri_pb2.HttpUri) -> ext_authz_pb2.HttpService:
    result = ext_authz_pb2.HttpService(server_uri=uri, path_prefix=authorizer.path_prefix)
    for name, value in sorted(authorizer.include_additional_headers_in_check.items()):
        result.authorization_request.headers_to_add.add(key=name, value=value)
    response = result.authorization_response
    # An empty list is refused by Envoy; an absent one means what Envoy passes by default.
    for field, names in (
        ("allowed_upstream_headers", authorizer.headers_to_upstream_on_allow),
        ("allowed_client_headers", authorizer.headers_to_downstream_on_deny),
        ("allowed_client_headers_on_success", authorizer.headers_to_downstream_on_allow),
    ):
        if names:
            getattr(response, field).patterns.extend(map(_header, names))
    return result


def _header(name: str) -> string_pb2.StringMatcher:
    return texts.match(name, ignores_case=True)
