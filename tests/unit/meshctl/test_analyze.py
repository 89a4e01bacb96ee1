"""What is found in a configuration: each code at its place, and nothing in one that is good."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshapi import names
from meshctl import analyze
from meshctl.analysis.messages import Code, Finding, Level
from meshctl.analysis.world import World, documents
from tests.support import kubernetes_objects as objects
from tests.unit.meshctl.test_commands import ROOT, culvert

WEB = {"app": "web"}
Json = dict[str, Any]


def namespace(name: str = "shop", mode: str | None = "ambient") -> Json:
    return {"metadata": {"name": name, "labels": {names.DATAPLANE_MODE_LABEL: mode} if mode else {}}}


def findings(*, pods: bool = True, **items: list[Json]) -> list[Finding]:
    world = World(knows_pods=pods)
    for kind, listed in items.items():
        for item in listed:
            world.add(item, kind)
    return analyze.examine(world)


def codes(*, pods: bool = True, **items: list[Json]) -> list[tuple[str, str]]:
    return [(one.code.code, one.field) for one in findings(pods=pods, **items)]


GOOD: dict[str, list[Json]] = {
    "Namespace": [namespace()],
    "Pod": [objects.pod("web-1", labels=WEB, captured=True)],
    "Service": [objects.service("web", ports=[{"port": 80, "name": "http"}, {"port": 81, "appProtocol": "grpc"}])],
    "AuthorizationPolicy": [
        objects.policy("p", selector={"matchLabels": WEB}, rules=[{"to": [{"operation": {"ports": ["80"]}}]}])
    ],
    "PeerAuthentication": [objects.peer("s", mode="STRICT", selector=WEB, ports={"80": "PERMISSIVE"})],
    "ServiceEntry": [objects.service_entry("e", hosts=["a.test"], resolution="DNS")],
}


EGRESS = ("CUL0133", "metadata.labels[culvert.io/egress]")


def labelled(mode: str, egress: str, pod: str = "") -> dict[str, list[Any]]:
    found = namespace(mode=mode)
    found["metadata"]["labels"]["culvert.io/egress"] = egress
    labels = {"culvert.io/egress": pod} if pod else {}
    return {"Namespace": [found], "Pod": [objects.pod("p", labels=labels, captured=True)]}


def test_valid_objects_have_no_findings() -> None:
    assert findings(**GOOD) == []


def policy(**spec: Any) -> list[Json]:
    return [objects.policy("p", **spec)]


L7 = {"to": [{"operation": {"paths": ["/x"]}}], "from": [{"source": {"requestPrincipals": ["*"]}}]}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ({"AuthorizationPolicy": policy(rules=[{"to": [{"operation": {"ports": ["http"]}}]}])},
         [("IST0106", "spec.rules[0].to[0].operation.ports[0]")]),
        ({"AuthorizationPolicy": policy(rules=[{"form": []}])}, [("CUL0101", "spec.rules[0].form")]),
        ({"AuthorizationPolicy": policy(rules=[L7])},
         [("CUL0102", "spec.rules[0].from[0].source.requestPrincipals"),
          ("CUL0102", "spec.rules[0].to[0].operation.paths")]),
        ({"AuthorizationPolicy": policy(rules=[{"when": [{"key": "request.headers[x]", "values": ["y"]}]}])},
         [("CUL0102", "spec.rules[0].when[0].key request.headers[x]")]),
        ({"AuthorizationPolicy": policy(rules=[L7], targetRefs=[{"kind": "Service", "name": "web"}])}, []),
        ({"AuthorizationPolicy": policy(action="AUDIT", rules=[{}])}, [("CUL0103", "spec.action")]),
        ({"AuthorizationPolicy": policy()}, [("CUL0104", "spec.rules")]),
        ({"AuthorizationPolicy": policy(action="DENY")}, [("CUL0105", "spec.rules")]),
        ({"AuthorizationPolicy": policy(rules=[{}], annotations={"istio.io/dry-run": "true"})},
         [("CUL0106", "metadata.annotations[istio.io/dry-run]")]),
        ({"AuthorizationPolicy": policy(rules=[{}], selector={"matchLabels": {"app": "none"}})},
         [("IST0127", "spec.selector.matchLabels")]),
        ({"AuthorizationPolicy": policy(rules=[{}], selector={"matchLabels": WEB}),
          "Pod": [objects.pod("web", labels=WEB)]}, [("CUL0107", "spec.selector.matchLabels")]),
        ({"PeerAuthentication": [objects.peer("s", ports={"80": "STRICT"})]}, [("CUL0110", "spec.portLevelMtls")]),
        ({"PeerAuthentication": [objects.peer("s", mode="DISABLE")]}, [("CUL0111", "spec.mtls.mode")]),
        ({"PeerAuthentication": [objects.peer("s", "istio-system", mode="STRICT", selector=WEB)]},
         [("CUL0112", "spec.selector")]),
        ({"PeerAuthentication": [objects.peer("a", mode="STRICT"),
                                 objects.peer("b", mode="PERMISSIVE", created="2025-01-01T00:00:00Z")]},
         [("CUL0113", "spec.selector")]),
        ({"ServiceEntry": [objects.service_entry("a", hosts=["a.test"], resolution="DNS"),
                           objects.service_entry("b", hosts=["b.test", "a.test"], resolution="DNS")]},
         [("CUL0120", "spec.hosts[1]")]),
        ({"ServiceEntry": [objects.service_entry("a", hosts=["web.shop.svc.cluster.local"], resolution="DNS")],
          "Service": [objects.service("web")]}, [("CUL0120", "spec.hosts[0]")]),
        ({"ServiceEntry": [objects.service_entry("a", "one", hosts=["a.test"], resolution="DNS"),
                           objects.service_entry("a", "two", hosts=["a.test"], resolution="DNS")]}, []),
        ({"ServiceEntry": [objects.service_entry("a", hosts=["a.test"], resolution="STATIC")]},
         [("CUL0121", "spec.endpoints")]),
        ({"ServiceEntry": [objects.service_entry("a", hosts=["a.test"], selector=WEB, resolution="STATIC")]},
         [("IST0127", "spec.workloadSelector.labels")]),
        ({"Service": [objects.service("web", ports=[{"port": 80, "name": "web"}, {"port": 1, "protocol": "UDP"}])]},
         [("IST0118", "spec.ports[0].name")]),
        ({"Namespace": [namespace()], "Pod": [objects.pod("p")]}, [("CUL0130", "")]),
        ({"Namespace": [namespace()], "Pod": [objects.pod("p", host_network=True)]}, []),
        ({"Namespace": [namespace()], "Pod": [objects.pod("p", labels={names.DATAPLANE_MODE_LABEL: "none"})]}, []),
        ({"Namespace": [namespace()], "Pod": [objects.pod("p", phase="Pending")]}, []),
        (labelled("ambient", "registry-only"), []),
        (labelled("ambient", "registry-only", pod="registry-only"), []),
        (labelled("ambient", "allow-any", pod="registry-only"), []),
        (labelled("ambient", "registry-olny"), [EGRESS]),
        (labelled("", "registry-only"), [EGRESS]),
        (labelled("ambient", "registry-only", pod="allow-any"), [EGRESS]),
        ({"Namespace": [namespace(mode="ambeint")]}, [("CUL0131", "metadata.labels[istio.io/dataplane-mode]")]),
    ],
)  # fmt: skip
def test_findings_of_analyze(items: dict[str, list[Json]], expected: list[tuple[str, str]]) -> None:
    assert codes(**items) == expected


def mesh_config(text: str) -> list[Json]:
    return [{"metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": text}}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trustDomain: cluster.local", []),
        ("trustDomain: '!'", [("CUL0150", "data.mesh.trustDomain")]),
        ("a: [", [("CUL0150", "data.mesh")]),
        ("dnsRefreshRate: 5s\ntrustDomian: y",
         [("CUL0151", "data.mesh.dnsRefreshRate"), ("CUL0101", "data.mesh.trustDomian")]),
        ("discoverySelectors: [{matchLabels: {mesh: 'on'}}]", [("CUL0152", "metadata.labels")]),
        ("discoverySelectors: [{matchLabels: {istio.io/dataplane-mode: ambient}}]", []),
    ],
)  # fmt: skip
def test_findings_in_the_mesh_configuration(text: str, expected: list[tuple[str, str]]) -> None:
    assert codes(**GOOD, ConfigMap=mesh_config(text)) == expected


def test_the_mesh_configuration_of_a_file_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "istio.yaml"
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", **mesh_config("dnsRefreshRate: 5s")[0]}
    file.write_text(yaml.safe_dump(manifest))
    [item] = documents(file.read_text(), "default")
    assert item[1] == "ConfigMap"
    world = World()
    world.add(*item, str(file))
    [finding] = analyze.examine(world)
    assert str(finding).startswith(
        f"Warning [CUL0151] (ConfigMap istio-system/istio ({file})) data.mesh.dnsRefreshRate: "
    )


def test_a_pod_with_a_sidecar_is_only_mentioned() -> None:
    pod = objects.pod("p")
    pod["metadata"]["annotations"] = {names.SIDECAR_STATUS_ANNOTATION: "{}"}
    assert codes(Namespace=[namespace()], Pod=[pod]) == [("CUL0132", "")]


def test_without_pods_nothing_is_said_of_selectors() -> None:
    assert codes(pods=False, AuthorizationPolicy=policy(rules=[{}], selector={"matchLabels": WEB})) == []


def test_codes_are_unique_and_every_one_is_tested() -> None:
    listed = [one.code for one in Code]
    assert len(set(listed)) == len(listed)
    here = Path(__file__).parent
    text = "".join(
        (here / f"test_{name}.py").read_text()
        for name in ("analyze", "analyze_gateways", "network_policies", "routing")
    )
    assert [code for code in listed if f'"{code}"' not in text] == []


def test_every_code_is_documented() -> None:
    text = (ROOT / "docs" / "analyze.md").read_text()
    for one in Code:
        assert f"| {one.code} | {one.level} | {one.meaning} |" in text


def test_documents_of_other_kinds_and_groups_are_left_alone() -> None:
    text = yaml.safe_dump_all(
        [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}},
            {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "s"}},
            {
                "apiVersion": "v1",
                "kind": "List",
                "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}],
            },
            None,
        ]
    )
    assert [(kind, item["metadata"]) for item, kind in documents(text, "dev")] == [
        ("Pod", {"name": "p", "namespace": "dev"})
    ]


BAD = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: s, namespace: shop}
spec: {mtls: {mode: DISABLE}}
"""


@pytest.mark.parametrize(
    ("threshold", "status"), [("Error", 0), ("Warning", 0), ("Info", analyze.FOUND), ("info", analyze.FOUND)]
)
def test_the_threshold_decides_the_exit_status(tmp_path: Path, threshold: str, status: int) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    done = culvert("analyze", "--no-use-kube", "--failure-threshold", threshold, str(tmp_path))
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith(f"Info [CUL0111] (PeerAuthentication shop/s ({tmp_path}/bad.yaml)) spec.mtls.mode: ")


def test_unreadable_input_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    done = culvert("analyze", "--no-use-kube", str(tmp_path / "bad.yaml"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert culvert("analyze", "--no-use-kube").returncode == 1


def test_levels_are_ordered() -> None:
    assert [level.rank for level in (Level.INFO, Level.WARNING, Level.ERROR)] == [0, 1, 2]
