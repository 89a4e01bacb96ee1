"""The chart of gateways that users install: as the control plane makes gateways, and with Istio's labels and ports."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.gateways import place
from controlplane.gateways.classes import EDGE
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies import pods
from controlplane.proxies.defaults import ProxyDefaults
from meshapi.resources import base, core, gateway
from meshctl import chart, edge
from meshctl.edge import Demo
from tests.support.chart import Objects, run

CHART = chart.gateway_folder()


def rendered(helm: Path, *sets: str, name: str = "istio-ingress", values: str = "") -> Objects:
    options = [f"--set={value}" for value in sets] + (["--values=-"] if values else [])
    arguments = [helm, "template", name, str(CHART), "--kube-version=1.34", "--namespace=edge", *options]
    done = subprocess.run(arguments, input=values, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}


def template_of(objects: Objects, name: str = "istio-ingress") -> dict[str, Any]:
    found: dict[str, Any] = objects["Deployment", name]["spec"]["template"]
    return found


def test_the_chart_has_no_faults(helm: Path) -> None:
    done = run(helm, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_a_pod_is_as_the_control_plane_makes_them(helm: Path) -> None:
    """What both have in common is written twice; here it is compared."""
    ours = template_of(rendered(helm))
    item = base.read(
        gateway.Gateway, {"metadata": {"name": "g", "namespace": "edge"}, "spec": {"gatewayClassName": "istio"}}
    )
    defaults = ProxyDefaults("image", "istiod.istio-system.svc:15012", "Kubernetes", "cluster.local")
    made = pods.template(
        item, EDGE, MeshContext(), defaults, name="istio-ingress", account="istio-ingress", labels={}, annotations={}
    )
    for field in ("volumes", "securityContext", "automountServiceAccountToken", "terminationGracePeriodSeconds"):
        assert ours["spec"][field] == made["spec"][field], field
    [own], [other] = ours["spec"]["containers"], made["spec"]["containers"]
    by_name = {one["name"]: one for one in other["env"]}
    assert {one["name"]: one for one in own["env"]} == by_name
    for field in ("ports", "startupProbe", "readinessProbe", "securityContext", "volumeMounts", "name"):
        assert own[field] == other[field], field
    assert made["metadata"]["labels"].items() <= ours["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("sets", "app", "istio"),
    [
        ((), "istio-ingress", "ingress"),
        (("name=mine",), "mine", "mine"),
        (("labels.istio=ingressgateway", "labels.app=web"), "web", "ingressgateway"),
    ],
)
def test_gateways_select_the_pods_by_istios_labels(helm: Path, sets: tuple[str, ...], app: str, istio: str) -> None:
    objects = rendered(helm, *sets, "labels.team=a")
    name = "mine" if "name=mine" in sets else "istio-ingress"
    labels = template_of(objects, name)["metadata"]["labels"]
    assert (labels["app"], labels["istio"], labels["team"]) == (app, istio, "a")
    for kind in ("Deployment", "Service", "ServiceAccount"):
        assert objects[kind, name]["metadata"]["labels"]["istio"] == istio
    assert objects["Service", name]["spec"]["selector"] == {"app": app, "istio": istio}
    assert objects["Deployment", name]["spec"]["selector"]["matchLabels"] == {"app": app, "istio": istio}


def test_values_of_istios_chart_are_heeded(helm: Path) -> None:
    values = """
    replicaCount: 3
    autoscaling: {enabled: false}
    podAnnotations: {a: b}
    annotations: {e: f}
    service:
      type: NodePort
      ports: [{name: http2, port: 80, targetPort: 8080, nodePort: 30080}]
      annotations: {c: d}
      externalTrafficPolicy: Local
      loadBalancerSourceRanges: [10.0.0.0/8]
    serviceAccount: {name: account}
    resources: {requests: {cpu: 1}}
    env: {PROXY_LOG_LEVEL: debug, OTHER: 1}
    podDisruptionBudget: {minAvailable: 1}
    """
    objects = rendered(helm, values=values)
    found = template_of(objects)
    assert objects["Deployment", "istio-ingress"]["spec"]["replicas"] == 3
    assert ("HorizontalPodAutoscaler", "istio-ingress") not in objects
    assert found["metadata"]["annotations"]["a"] == "b"
    service = objects["Service", "istio-ingress"]
    assert service["metadata"]["annotations"] == {"c": "d", "e": "f"}
    assert (service["spec"]["type"], service["spec"]["externalTrafficPolicy"]) == ("NodePort", "Local")
    assert service["spec"]["ports"] == [{"name": "http2", "port": 80, "targetPort": 8080, "nodePort": 30080}]
    assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert found["spec"]["serviceAccountName"] == "account"
    assert ("ServiceAccount", "account") in objects
    env = [(one["name"], one.get("value")) for one in found["spec"]["containers"][0]["env"]]
    assert env.count(("PROXY_LOG_LEVEL", "debug")) == 1
    assert ("PROXY_LOG_LEVEL", "warning") not in env
    assert ("OTHER", "1") in env
    assert found["spec"]["containers"][0]["resources"]["requests"]["cpu"] == 1
    assert objects["PodDisruptionBudget", "istio-ingress"]["spec"]["minAvailable"] == 1
    assert ("Service", "istio-ingress") not in rendered(helm, "service.type=None")


def test_an_unknown_value_is_refused_by_name(helm: Path) -> None:
    done = run(helm, "template", "a", str(CHART), "--set=service.typ=None")
    assert done.returncode != 0
    assert "typ" in done.stderr


def test_every_value_is_described() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() == schema["properties"].keys()
    assert all(one.get("description") for one in schema["properties"].values())


def test_the_chart_has_the_version_of_the_other_one() -> None:
    found = [yaml.safe_load((one / "Chart.yaml").read_text()) for one in (CHART, chart.folder())]
    assert found[0]["version"] == found[0]["appVersion"] == found[1]["version"]


@pytest.mark.parametrize("demo", Demo)
def test_the_demo_profile_has_istios_gateways(helm: Path, demo: Demo) -> None:
    installed = {
        "image": {"tag": "7", "pullPolicy": "Always", "pullSecrets": ["s"]},
        "waypoint": {"image": {"repository": "r/waypoint", "tag": ""}},
        "meshConfig": {"trustDomain": "td"},
        "cluster": {"id": "c", "domain": "local.test"},
    }
    values = edge.values_of(demo, installed, "mesh-system")
    objects = rendered(helm, name=demo.release, values=yaml.safe_dump(values))
    found, service = template_of(objects, demo.release), objects["Service", demo.release]
    labels = {"app": demo.release, "istio": demo.release.removeprefix("istio-")}
    assert labels.items() <= found["metadata"]["labels"].items()
    assert service["spec"]["type"] == ("LoadBalancer" if demo is Demo.INGRESS else "ClusterIP")
    ports = [(one["port"], one["targetPort"]) for one in service["spec"]["ports"]]
    ingress = [(15021, 15021), (80, 8080), (443, 8443), (31400, 31400), (15443, 15443)]
    assert ports == (ingress if demo is Demo.INGRESS else [(80, 8080), (443, 8443)])
    [container] = found["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("r/waypoint:7", "Always")
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["XDS_ADDRESS"] == "istiod.mesh-system.svc:15012"
    assert (env["TRUST_DOMAIN"], env["CLUSTER_DOMAIN"], env["ISTIO_META_CLUSTER_ID"]) == ("td", "local.test", "c")
    assert found["spec"]["serviceAccountName"] == demo.release
    assert found["spec"]["imagePullSecrets"] == [{"name": "s"}]
    assert ("HorizontalPodAutoscaler", demo.release) not in objects


def test_pods_of_all_revisions_are_one_place(helm: Path) -> None:
    """A version in the labels would give each upgrade's pods another configuration for a while."""

    def of(*sets: str) -> place.Place:
        metadata = template_of(rendered(helm, *sets))["metadata"]
        return place.of_pod(base.read(core.Pod, {"metadata": {**metadata, "name": "a", "namespace": "edge"}}))

    assert of() == of("image.tag=v9", "replicaCount=4", "podAnnotations.a=b")
