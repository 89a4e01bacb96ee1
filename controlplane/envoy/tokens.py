"""RequestAuthentications as Envoy's JWT filter. Facts: Istio's ``pilot/pkg/security/authn/policy_applier.go``.

A request without a token is let through; one with a token that is not valid is answered with 401. Keys that are not
known, because they could not be fetched yet, verify nothing: tokens of their issuer are refused.
"""

from collections.abc import Callable, Sequence
from typing import Final

from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from controlplane.envoy import names
from controlplane.envoy.packing import packed
from meshapi.resources.request_authentication import JWTRule, RequestAuthentication

Requirement: Final = config_pb2.JwtRequirement
_WORDS: Final = ("permission", "scope")
"""Claims that are lists of words, separated by spaces (RFC 8693, section 4.2)."""


def of_policies(
    policies: Sequence[RequestAuthentication], keys: Callable[[JWTRule], str | None]
) -> http_connection_manager_pb2.HttpFilter | None:
    """Return the filter; ``None`` where no issuer is named.

    Args:
        policies: all that count for a service.
        keys: returns the keys of an issuer, as JSON; ``None``: not known.
    """
    rules = [rule for policy in policies for rule in policy.spec.jwt_rules]
    if not rules:
        return None
    config = config_pb2.JwtAuthentication(bypass_cors_preflight=True)
    for index, rule in enumerate(rules):
        config.providers[_name(index)].CopyFrom(_provider(rule, keys(rule)))
    match = config.rules.add()
    match.match.prefix = "/"
    match.requires.CopyFrom(_requirement(len(rules)))
    return http_connection_manager_pb2.HttpFilter(name=names.JWT_FILTER, typed_config=packed(config))


def _name(index: int) -> str:
    return f"origins-{index}"


def _requirement(count: int) -> config_pb2.JwtRequirement:
    """One provider verifies the token, or each of them finds none of its own or a valid one."""
    each = [Requirement(provider_name=_name(index)) for index in range(count)]
    missing = Requirement()
    missing.allow_missing.SetInParent()
    optional = [_any([one, missing]) for one in each]
    if count == 1:
        return optional[0]
    every = Requirement(requires_all=config_pb2.JwtRequirementAndList(requirements=optional))
    return _any([*each, every])


def _any(requirements: list[config_pb2.JwtRequirement]) -> config_pb2.JwtRequirement:
    return Requirement(requires_any=config_pb2.JwtRequirementOrList(requirements=requirements))


def _provider(rule: JWTRule, keys: str | None) -> config_pb2.JwtProvider:
    result = config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        forward_payload_header=rule.output_payload_to_header,
        payload_in_metadata=names.JWT_PAYLOAD,
        clear_route_cache=True,
    )
    if keys is not None:
        result.local_jwks.inline_string = keys
    else:
        # Envoy refuses an empty key set, and an invented one would lie. Keys that cannot be fetched verify nothing.
        source = result.remote_jwks.http_uri
        source.cluster, source.uri = names.BLACK_HOLE, rule.jwks_uri or f"https://{names.BLACK_HOLE}"
        source.timeout.seconds = 1
    for header in rule.from_headers:
        result.from_headers.add(name=header.name, value_prefix=header.prefix)
    for claim in rule.output_claim_to_headers:
        result.claim_to_headers.add(header_name=claim.header, claim_name=claim.claim)
    words = dict.fromkeys((*_WORDS, *rule.space_delimited_claims))
    result.normalize_payload_in_metadata.space_delimited_claims.extend(words)
    return result
