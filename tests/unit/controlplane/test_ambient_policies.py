"""AuthorizationPolicy and PeerAuthentication for layer 4, row by row as in the facts page on authorization."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from controlplane.ambient import authorization, peer_authentication, trust_domains
from controlplane.inputs.mesh import MeshContext
from meshapi.errors import InvalidResource
from meshapi.proto import authorization_pb2 as pb
from meshapi.resources import base, security
from tests.support import kubernetes_objects as objects

MESH = MeshContext()
ALIASES = MeshContext(trust_domain="td", trust_domain_aliases=("old", "older"))


def read(**spec: Any) -> security.AuthorizationPolicy:
    return base.read(security.AuthorizationPolicy, objects.policy("p", **spec))


def translate(**spec: Any) -> authorization.Translation:
    return authorization.translate(read(**spec), MESH)


def rules(translation: authorization.Translation) -> Any:
    assert translation.policy is not None
    return MessageToDict(translation.policy).get("rules", [])


def test_one_clause_for_all_to_one_for_all_from_and_one_for_each_when() -> None:
    result = translate(
        action="DENY",
        rules=[
            {
                "from": [
                    {"source": {"principals": ["td/ns/a/sa/b", "td/*", "*/sa/x", "*"], "notNamespaces": ["dev"]}},
                    {"source": {"ipBlocks": ["10.1.2.3", "10.0.0.0/8", "fd00::/8"], "serviceAccounts": ["x", "n/y"]}},
                ],
                "to": [{"operation": {"ports": ["80", "443"]}}, {"operation": {"notPorts": ["22"]}}],
                "when": [
                    {"key": "destination.port", "values": ["8080"]},
                    {"key": "source.namespace", "notValues": ["prod"]},
                ],
            }
        ],
    )
    assert rules(result) == [
        {
            "clauses": [
                {"matches": [{"destinationPorts": [80, 443]}, {"notDestinationPorts": [22]}]},
                {
                    "matches": [
                        {
                            "principals": [
                                {"exact": "td/ns/a/sa/b"},
                                {"prefix": "td/"},
                                {"suffix": "/sa/x"},
                                {"presence": {}},
                            ],
                            "notNamespaces": [{"exact": "dev"}],
                        },
                        {
                            "sourceIps": [
                                {"address": "CgECAw==", "length": 32},
                                {"address": "CgAAAA==", "length": 8},
                                {"address": "/QAAAAAAAAAAAAAAAAAAAA==", "length": 8},
                            ],
                            "serviceAccounts": [
                                {"namespace": "shop", "serviceAccount": "x"},
                                {"namespace": "n", "serviceAccount": "y"},
                            ],
                        },
                    ]
                },
                {"matches": [{"destinationPorts": [8080]}]},
                {"matches": [{"notNamespaces": [{"exact": "prod"}]}]},
            ]
        }
    ]
    assert not result.problems


@pytest.mark.parametrize(
    ("namespace", "selector", "scope"),
    [
        ("shop", None, pb.NAMESPACE),
        ("shop", {"matchLabels": {}}, pb.NAMESPACE),
        ("shop", {"matchLabels": {"app": "web"}}, pb.WORKLOAD_SELECTOR),
        ("istio-system", None, pb.GLOBAL),
        ("istio-system", {"matchLabels": {"app": "web"}}, pb.WORKLOAD_SELECTOR),
    ],
)
def test_scope(namespace: str, selector: dict[str, Any] | None, scope: int) -> None:
    policy = base.read(security.AuthorizationPolicy, objects.policy("p", namespace, selector=selector))
    translated = authorization.translate(policy, MESH).policy
    assert translated is not None
    assert translated.scope == scope


@pytest.mark.parametrize(
    "spec",
    [
        {"action": "AUDIT"},
        {"action": "CUSTOM", "provider": {"name": "x"}},
        {"targetRefs": [{"kind": "Service", "name": "web"}]},
        {"targetRef": {"kind": "Gateway", "name": "web"}},
        {"annotations": {"istio.io/dry-run": "true"}},
    ],
)
def test_policies_that_layer_4_does_not_take(spec: dict[str, Any]) -> None:
    assert translate(**spec).policy is None


def test_dry_run_is_sent_when_enabled() -> None:
    policy = read(annotations={"istio.io/dry-run": "true"})
    translated = authorization.translate(policy, MeshContext(sends_dry_run=True)).policy
    assert translated is not None
    assert translated.dry_run


def test_policy_without_rules_stays_without_and_a_rule_without_fields_matches_everything() -> None:
    assert rules(translate()) == []
    assert rules(translate(rules=[{}])) == [{}]


@pytest.mark.parametrize(
    "rule",
    [
        {"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]},
        {"from": [{"source": {"requestPrincipals": ["*"]}}]},
        {"from": [{"source": {"principals": ["a"], "trustDomains": ["td"]}}]},
        {"when": [{"key": "request.headers[x]", "values": ["1"]}]},
    ],
)
def test_layer_7_in_an_allow_rule_removes_the_rule_and_keeps_the_policy(rule: dict[str, Any]) -> None:
    result = translate(rules=[rule])
    assert rules(result) == []
    assert "spec.rules[0]" in result.problems[0]


def test_layer_7_in_a_deny_rule_removes_the_attribute_and_so_denies_more() -> None:
    result = translate(
        action="DENY",
        rules=[
            {"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]},
            {"to": [{"operation": {"paths": ["/admin"]}}]},
        ],
    )
    assert rules(result) == [
        {"clauses": [{"matches": [{"destinationPorts": [80]}]}]},
        {},  # a rule without clauses matches everything
    ]
    assert result.problems == [
        "spec.rules[0].to[0].operation.methods needs a waypoint (layer 7)",
        "spec.rules[0] denies by its other attributes alone without a waypoint",
        "spec.rules[1].to[0].operation.paths needs a waypoint (layer 7)",
        "spec.rules[1] denies every connection without a waypoint",
    ]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"action": "MAYBE"}, "spec.action", "ALLOW"),
        ({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]}, "spec.rules[0].to[0].operation.ports[0]", "1 to"),
        ({"rules": [{"from": [{"source": {"principals": [""]}}]}]}, "spec.rules[0].from[0].source.principals[0]", "*"),
        (
            {"rules": [{"from": [{"source": {"serviceAccounts": ["a/*"]}}]}]},
            "spec.rules[0].from[0].source.serviceAccounts[0]",
            "<namespace>/<name>",
        ),
        ({"rules": [{"when": [{"key": "destination.user", "values": ["x"]}]}]}, "spec.rules[0].when[0].key", "known"),
        ({"rules": [{"when": [{"key": "source.ip", "values": ["x"]}]}]}, "spec.rules[0].when[0]", "CIDR"),
        ({"rules": [{"when": [{"key": "source.ip"}]}]}, "spec.rules[0].when[0]", "neither"),
    ],
)
def test_bad_value_names_the_field_and_the_fix(spec: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        read(**spec)
    assert caught.value.field == field
    assert words in caught.value.reason
    assert str(caught.value).startswith(f"AuthorizationPolicy shop/p: {field}: ")


def peer(*args: Any, **options: Any) -> security.PeerAuthentication:
    return base.read(security.PeerAuthentication, objects.peer(*args, **options))


STATIC = "istio-system/istio_converted_static_strict"
OWN = "shop/converted_peer_authentication_w"
WITHOUT_IDENTITY = {"notPrincipals": [{"presence": {}}]}


@pytest.mark.parametrize(
    ("mesh", "namespace", "workload", "ports", "attached"),
    [
        (None, None, None, None, []),
        ("STRICT", None, None, None, [STATIC]),
        ("STRICT", "PERMISSIVE", None, None, []),
        ("STRICT", "UNSET", None, None, [STATIC]),
        ("STRICT", "DISABLE", None, None, []),
        (None, "STRICT", None, None, [STATIC]),
        (None, "STRICT", "PERMISSIVE", None, []),
        (None, "STRICT", "UNSET", None, [STATIC]),
        (None, None, "STRICT", None, [STATIC]),
        (None, None, "STRICT", {"80": "STRICT"}, [STATIC]),
        (None, None, "STRICT", {"80": "UNSET"}, [STATIC]),
        (None, None, "STRICT", {"80": "PERMISSIVE"}, [OWN]),
        (None, None, "STRICT", {"80": "DISABLE"}, [OWN]),
        (None, None, "PERMISSIVE", {"80": "STRICT"}, [OWN]),
        (None, None, "PERMISSIVE", {"80": "PERMISSIVE"}, []),
        (None, "STRICT", "UNSET", {"80": "PERMISSIVE"}, [OWN]),
        (None, "STRICT", "UNSET", {"80": "DISABLE"}, [OWN]),
        (None, "PERMISSIVE", "UNSET", {"80": "STRICT"}, [OWN]),
    ],
)
def test_which_policies_a_workload_lists(
    mesh: str | None, namespace: str | None, workload: str | None, ports: dict[str, str] | None, attached: list[str]
) -> None:
    levels = peer_authentication.Levels(
        mesh=peer("m", "istio-system", mode=mesh) if mesh else None,
        namespace=peer("n", mode=namespace) if namespace else None,
        workload=peer("w", mode=workload, selector={"app": "web"}, ports=ports) if workload else None,
    )
    assert peer_authentication.attached(levels, "istio-system") == attached
    if levels.workload is not None:
        made = peer_authentication.converted(levels.workload, parent_is_strict=levels.parent_is_strict)
        assert (made is not None) == (attached == [OWN]), "what is listed exists, and nothing else is made"


def test_strict_with_exempt_ports_is_one_rule() -> None:
    made = peer_authentication.converted(
        peer("w", mode="STRICT", selector={"app": "web"}, ports={"80": "PERMISSIVE", "9": "DISABLE", "7": "STRICT"}),
        parent_is_strict=False,
    )
    assert made is not None
    assert (made.scope, made.action) == (pb.WORKLOAD_SELECTOR, pb.DENY)
    assert MessageToDict(made)["rules"] == [
        {
            "clauses": [
                {"matches": [WITHOUT_IDENTITY]},
                {"matches": [{"notDestinationPorts": [9]}]},
                {"matches": [{"notDestinationPorts": [80]}]},
            ]
        }
    ]


def test_permissive_with_strict_ports_is_a_rule_for_each_port() -> None:
    made = peer_authentication.converted(
        peer("w", mode="PERMISSIVE", selector={"app": "web"}, ports={"80": "STRICT", "81": "STRICT"}),
        parent_is_strict=True,
    )
    assert made is not None
    assert MessageToDict(made)["rules"] == [
        {"clauses": [{"matches": [{**WITHOUT_IDENTITY, "destinationPorts": [port]}]}]} for port in (80, 81)
    ]


def test_the_oldest_peer_authentication_of_a_level_applies() -> None:
    old = peer("z", mode="STRICT", created="2025-01-01T00:00:00Z")
    new = peer("a", mode="DISABLE", created="2025-01-01T00:00:01Z")
    assert peer_authentication.oldest([new, old]) is old
    assert peer_authentication.oldest([]) is None


@pytest.mark.parametrize(
    ("mesh", "principal", "expected"),
    [
        (MeshContext(), "cluster.local/ns/a/sa/b", ["cluster.local/ns/a/sa/b"]),
        (MeshContext(trust_domain="td"), "cluster.local/ns/a/sa/b", ["td/ns/a/sa/b"]),
        (ALIASES, "td/ns/a/sa/b", ["td/ns/a/sa/b", "old/ns/a/sa/b", "older/ns/a/sa/b"]),
        (ALIASES, "old/ns/a/sa/*", ["td/ns/a/sa/*", "old/ns/a/sa/*", "older/ns/a/sa/*"]),
        (ALIASES, "cluster.local/ns/a/sa/b", ["td/ns/a/sa/b", "old/ns/a/sa/b", "older/ns/a/sa/b"]),
        (ALIASES, "*d/ns/a/sa/b", ["*d/ns/a/sa/b", "older/ns/a/sa/b"]),
        (ALIASES, "other/ns/a/sa/b", ["other/ns/a/sa/b"]),
        (ALIASES, "*/ns/a/sa/b", ["*/ns/a/sa/b"]),
        (ALIASES, "old/*", ["old/*"]),
        (ALIASES, "*", ["*"]),
    ],
)
def test_principals_hold_in_the_trust_domain_and_its_aliases(
    mesh: MeshContext, principal: str, expected: list[str]
) -> None:
    assert trust_domains.expand([principal], mesh) == expected


def test_principals_of_sources_and_conditions_are_expanded() -> None:
    principals = ["old/ns/a/sa/b"]
    rule = {
        "from": [{"source": {"principals": principals}}, {"source": {"notPrincipals": principals}}],
        "when": [
            {"key": "source.principal", "notValues": principals},
            {"key": "source.namespace", "values": principals},
        ],
    }
    mesh = MeshContext(trust_domain="td", trust_domain_aliases=("old",))
    both = [{"exact": "td/ns/a/sa/b"}, {"exact": "old/ns/a/sa/b"}]
    assert rules(authorization.translate(read(action="DENY", rules=[rule]), mesh)) == [
        {
            "clauses": [
                {"matches": [{"principals": both}, {"notPrincipals": both}]},
                {"matches": [{"notPrincipals": both}]},
                {"matches": [{"namespaces": [{"exact": "old/ns/a/sa/b"}]}]},
            ]
        }
    ]
