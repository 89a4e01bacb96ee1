"""Who calls: ``from`` and those of ``when``, as Envoy's principals.

Identities are those of the client at the other end of the tunnel, from its certificate: they are in filter state.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import filter_state_pb2, string_pb2, value_pb2

from controlplane.envoy import names
from controlplane.envoy.authorization import texts
from controlplane.envoy.packing import regex
from meshapi.resources.security import Condition, Source

Principal: Final = rbac_pb2.Principal
Make = Callable[[str], rbac_pb2.Principal]
_SPIFFE: Final = "spiffe://"
_HEADER: Final = re.compile(r"request\.headers\[([^\]]+)\]")
_CLAIMS: Final = re.compile(r"request\.auth\.claims((?:\[[^\]]+\])+)")
_EXTENSION: Final = re.compile(r"experimental\.(envoy\.filters\.[^\[]+)\[([^\]]+)\]")


def of_source(source: Source, namespace: str, *, is_http: bool) -> rbac_pb2.Principal:
    """Return a source: all of its fields, in each one of the values.

    Args:
        source: the source.
        namespace: of the policy, for service accounts without one.
        is_http: whether fields about requests count.
    """
    account = _account_in(namespace)
    fields: list[tuple[tuple[str, ...], tuple[str, ...], Make]] = [
        (source.principals, source.not_principals, _principal),
        (source.namespaces, source.not_namespaces, _namespace),
        (source.service_accounts, source.not_service_accounts, account),
        (source.trust_domains, source.not_trust_domains, _trust_domain),
        (source.ip_blocks, source.not_ip_blocks, _direct_address),
        (source.remote_ip_blocks, source.not_remote_ip_blocks, _remote_address),
    ]
    if is_http:
        fields.append((source.request_principals, source.not_request_principals, _request_principal))
    return both(one for values, not_values, make in fields for one in _field(values, not_values, make))


def of_condition(condition: Condition, namespace: str, *, is_http: bool) -> rbac_pb2.Principal | None:
    """Return a condition about the caller or its request; ``None`` for one about what is called."""
    make = _maker(condition.key, namespace, is_http=is_http)
    return None if make is None else both(_field(condition.values, condition.not_values, make))


def anybody() -> rbac_pb2.Principal:
    """Return a principal that everybody is."""
    return Principal(any=True)


def both(parts: Iterable[rbac_pb2.Principal]) -> rbac_pb2.Principal:
    """Return the principal that is all of ``parts``."""
    found = list(parts)
    return Principal(and_ids=Principal.Set(ids=found)) if found else anybody()


def either(parts: Iterable[rbac_pb2.Principal]) -> rbac_pb2.Principal:
    """Return the principal that is one of ``parts``."""
    return Principal(or_ids=Principal.Set(ids=list(parts)))


def _field(values: tuple[str, ...], not_values: tuple[str, ...], make: Make) -> Iterator[rbac_pb2.Principal]:
    if values:
        yield either(map(make, values))
    if not_values:
        yield Principal(not_id=either(map(make, not_values)))


def _maker(key: str, namespace: str, *, is_http: bool) -> Make | None:
    makers: dict[str, Make] = {
        "source.ip": _direct_address,
        "remote.ip": _remote_address,
        "source.namespace": _namespace,
        "source.principal": _principal,
        "source.serviceAccount": _account_in(namespace),
        "source.trustDomain": _trust_domain,
    }
    if key in makers or not is_http:
        return makers.get(key)
    of_tokens: dict[str, Make] = {
        "request.auth.principal": _request_principal,
        "request.auth.audiences": _claim(("aud",)),
        "request.auth.presenter": _claim(("azp",)),
    }
    if found := _HEADER.fullmatch(key):
        return _header(found[1])
    if found := _CLAIMS.fullmatch(key):
        return _claim(tuple(found[1].strip("[]").split("][")))
    if found := _EXTENSION.fullmatch(key):
        return _metadata(found[1], found[2])
    return of_tokens.get(key)


def _state(match: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    return Principal(
        filter_state=filter_state_pb2.FilterStateMatcher(key=names.SOURCE_PRINCIPAL_STATE, string_match=match)
    )


def _principal(value: str) -> rbac_pb2.Principal:
    return _state(texts.match(value, prefix=_SPIFFE))


def _namespace(value: str) -> rbac_pb2.Principal:
    return _state(_expression(f".*/ns/{texts.with_wildcards(value)}/.*"))


def _account_in(namespace: str) -> Make:
    def make(value: str) -> rbac_pb2.Principal:
        given, _, name = value.rpartition("/")
        account = f".*/ns/{re.escape(given or namespace)}/sa/{re.escape(name)}(/.*)?"
        return _state(_expression(account))

    return make


def _trust_domain(value: str) -> rbac_pb2.Principal:
    return _state(_expression(f"{_SPIFFE}{texts.with_wildcards(value)}/.*"))


def _expression(pattern: str) -> string_pb2.StringMatcher:
    return string_pb2.StringMatcher(safe_regex=regex(pattern))


def _direct_address(value: str) -> rbac_pb2.Principal:
    return Principal(direct_remote_ip=texts.address_range(value))


def _remote_address(value: str) -> rbac_pb2.Principal:
    return Principal(remote_ip=texts.address_range(value))


def _request_principal(value: str) -> rbac_pb2.Principal:
    """Return a token's issuer and subject, divided at the last slash."""
    if value == "*":
        return both((_claim(("iss",))("*"), _claim(("sub",))("*")))
    issuer, slash, subject = value.rpartition("/")
    if not slash:  # without a slash, a wildcard is for one of the two
        name = "sub" if value.startswith("*") else "iss"
        return both((_claim((name,))(value), _claim(("iss" if name == "sub" else "sub",))("*")))
    return both((_claim(("iss",))(issuer or "*"), _claim(("sub",))(subject or "*")))


def _claim(path: tuple[str, ...]) -> Make:
    def make(value: str) -> rbac_pb2.Principal:
        whole = (names.JWT_PAYLOAD, *path)
        return Principal(metadata=texts.metadata(names.JWT_FILTER, whole, texts.text_or_list(texts.match(value))))

    return make


def _header(name: str) -> Make:
    def make(value: str) -> rbac_pb2.Principal:
        matcher = route_components_pb2.HeaderMatcher(name=name, string_match=texts.match(value))
        return Principal(header=matcher)

    return make


def _metadata(filter_name: str, key: str) -> Make:
    def make(value: str) -> rbac_pb2.Principal:
        if value.startswith("[") and value.endswith("]"):
            inner = value_pb2.ValueMatcher(string_match=texts.match(value[1:-1]))
            found = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=inner))
        else:
            found = value_pb2.ValueMatcher(string_match=texts.match(value))
        return Principal(metadata=texts.metadata(filter_name, (key,), found))

    return make
