"""Generated AuthorizationPolicies and PeerAuthentications, as users write them."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.property import strategies
from tests.support import kubernetes_objects as objects

ROOT = "istio-system"
NAMESPACES = ["shop", "dev", ROOT]
LABELS = [{"app": "web"}, {"app": "web", "tier": "front"}, {"app": "db"}]

Json = dict[str, Any]


@st.composite
def wildcards(draw: st.DrawFn, whole: SearchStrategy[str]) -> str:
    text = draw(whole)
    cut = draw(st.integers(1, len(text) - 1))
    return draw(st.sampled_from([text, text, f"*{text[cut:]}", f"{text[:cut]}*", "*"]))


principals = wildcards(strategies.identities.map(lambda identity: identity.principal))
namespaces = wildcards(st.sampled_from(strategies.NAMESPACES))
accounts = st.sampled_from([*strategies.ACCOUNTS, *(f"shop/{name}" for name in strategies.ACCOUNTS), "hop/web"])
blocks = st.sampled_from(
    [
        "10.0.0.1",
        "10.0.0.0/24",
        "10.0.0.3/30",
        "0.0.0.0/0",
        "fd00::/64",
        "::/0",
        "::ffff:10.0.0.1",
        "::ffff:10.0.0.0/120",
    ]
)
ports = st.sampled_from([str(port) for port in strategies.PORTS])
texts = st.sampled_from(["a", "*"])

SOURCE = {
    "principals": principals, "namespaces": namespaces, "serviceAccounts": accounts, "ipBlocks": blocks,
}  # fmt: skip
SOURCE_L7 = {"requestPrincipals": texts, "remoteIpBlocks": blocks, "trustDomains": texts}
OPERATION = {"ports": ports}
OPERATION_L7 = {"hosts": texts, "methods": texts, "paths": texts}
CONDITIONS = {
    "source.ip": blocks, "source.namespace": namespaces, "source.principal": principals,
    "source.serviceAccount": accounts, "destination.ip": blocks, "destination.port": ports,
    "request.headers[x]": texts, "connection.sni": texts,
}  # fmt: skip


@st.composite
def fields(draw: st.DrawFn, layer_4: dict[str, SearchStrategy], layer_7: dict[str, SearchStrategy]) -> Json:
    """At least one field; mostly of layer 4."""
    values = {}
    for name, strategy in (layer_4 | layer_7).items():
        values[name] = strategy
        values[f"not{name[0].upper()}{name[1:]}"] = strategy
    usual = [name for name in values if name.removeprefix("not").lower() in {known.lower() for known in layer_4}]
    chosen = draw(st.lists(st.sampled_from(usual * 4 + list(values)), min_size=1, max_size=2, unique=True))
    return {name: draw(st.lists(values[name], min_size=1, max_size=2)) for name in chosen}


@st.composite
def conditions(draw: st.DrawFn) -> Json:
    key = draw(st.sampled_from(list(CONDITIONS)))
    which = draw(st.sampled_from([["values"], ["notValues"], ["values", "notValues"]]))
    return {"key": key} | {name: draw(st.lists(CONDITIONS[key], min_size=1, max_size=2)) for name in which}


@st.composite
def rules(draw: st.DrawFn) -> Json:
    rule: Json = {}
    if draw(st.booleans()):
        rule["from"] = [{"source": one} for one in draw(st.lists(fields(SOURCE, SOURCE_L7), min_size=1, max_size=2))]
    if draw(st.booleans()):
        found = draw(st.lists(fields(OPERATION, OPERATION_L7), min_size=1, max_size=2))
        rule["to"] = [{"operation": one} for one in found]
    if draw(st.booleans()):
        rule["when"] = draw(st.lists(conditions(), min_size=1, max_size=2))
    return rule


@st.composite
def policies(draw: st.DrawFn, name: str) -> Json:
    spec: Json = {"rules": draw(st.lists(rules(), max_size=2))}
    action = draw(st.sampled_from([None, "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"]))
    if action:
        spec["action"] = action
    selector = draw(st.sampled_from([None, None, {}, {"matchLabels": {}}, *({"matchLabels": one} for one in LABELS)]))
    if selector is not None:
        spec["selector"] = selector
    elif draw(st.integers(0, 9)) == 0:
        spec["targetRefs"] = [{"kind": "Service", "name": "web"}]
    annotations = {"istio.io/dry-run": "true"} if draw(st.integers(0, 9)) == 0 else None
    return objects.policy(name, draw(st.sampled_from(NAMESPACES)), annotations=annotations, **spec)


@st.composite
def peers(draw: st.DrawFn, name: str) -> Json:
    modes = st.sampled_from(["UNSET", "DISABLE", "PERMISSIVE", "STRICT", "STRICT"])
    selector = draw(st.sampled_from([None, None, *LABELS]))
    level = draw(st.dictionaries(ports, modes, max_size=2)) if selector else None
    return objects.peer(
        name,
        draw(st.sampled_from(NAMESPACES)),
        mode=draw(st.none() | modes),
        selector=selector,
        ports=level,
        created=draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
    )
