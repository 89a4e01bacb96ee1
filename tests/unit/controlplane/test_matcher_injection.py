"""Threat ``matcher-injection``: no character of a name means anything but itself (CVE-2026-39350)."""

import ipaddress

import pytest

from controlplane.ambient import authorization
from controlplane.inputs.mesh import MeshContext
from meshapi.errors import InvalidResource
from meshapi.identity import SpiffeId
from meshapi.resources import base, security
from tests.support import authorization_model
from tests.support import kubernetes_objects as objects

HERE = ipaddress.ip_address("10.0.0.1")


def allows(source: dict[str, list[str]], peer: SpiffeId) -> bool:
    policy = base.read(security.AuthorizationPolicy, objects.policy("p", rules=[{"from": [{"source": source}]}]))
    translated = authorization.translate(policy, MeshContext()).policy
    assert translated is not None
    connection = authorization_model.Connection(peer, HERE, HERE, 80)
    return authorization_model.evaluate({"shop/p": translated}, "shop", [], connection).allowed


def web(namespace: str = "shop", account: str = "web", domain: str = "cluster.local") -> SpiffeId:
    return SpiffeId(domain, namespace, account)


@pytest.mark.parametrize("character", list(".-_"))
@pytest.mark.parametrize("field", ["principals", "namespaces", "serviceAccounts"])
def test_a_special_character_matches_itself_and_nothing_else(field: str, character: str) -> None:
    name = f"a{character}b"
    exact = {
        "principals": f"cluster.local/ns/{name}/sa/{name}", "namespaces": name, "serviceAccounts": f"{name}/{name}",
    }[field]  # fmt: skip
    if field == "serviceAccounts" and character != "-":
        # Namespaces have no dots, accounts no underscores: a value that can match no identity is refused.
        with pytest.raises(InvalidResource):
            allows({field: [exact]}, web())
        return
    assert allows({field: [exact]}, web(name, name))
    for other in ("axb", "ab", f"xa{character}b", f"a{character}bx", f"A{character}b", "a"):
        assert not allows({field: [exact]}, web(other, other)), other


def test_dots_of_a_service_account_are_dots() -> None:
    assert allows({"serviceAccounts": ["shop/w.b"]}, web(account="w.b"))
    assert not allows({"serviceAccounts": ["shop/w.b"]}, web(account="wxb"))
    assert not allows({"principals": ["cluster.local/ns/shop/sa/web"]}, web(domain="clusterxlocal"))


@pytest.mark.parametrize("value", ["shop/w*", "shop/.*", "*/web", "shop/web|x", "shop/(web)", "shop/web\n", "a b"])
def test_a_service_account_with_a_wildcard_or_a_pattern_is_refused(value: str) -> None:
    with pytest.raises(InvalidResource, match="service account"):
        allows({"serviceAccounts": [value]}, web())


@pytest.mark.parametrize("value", [".*", "^shop$", "sh?p", "[s]hop", "shop|dev", "sh*p", "(shop)", "shop\\", "shop$"])
def test_patterns_of_other_languages_are_plain_text(value: str) -> None:
    assert not allows({"namespaces": [value]}, web())
    assert not allows({"principals": [f"cluster.local/ns/{value}/sa/web"]}, web())


@pytest.mark.parametrize(
    ("value", "matching", "other"),
    [
        ("sh*", "shop", "xsh"),
        ("*op", "shop", "opx"),
        ("*", "any", None),
        ("s.*", "s.x", "shop"),
        ("*.p", "x.p", "shop"),
    ],
)
def test_only_a_star_at_an_end_is_a_wildcard(value: str, matching: str, other: str | None) -> None:
    assert allows({"namespaces": [value]}, web(matching))
    assert other is None or not allows({"namespaces": [value]}, web(other))
