"""What the leader makes of a waypoint's Gateway: objects, overlays, status, and that it takes nothing over."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.gateways.classes import WAYPOINT, ProxyClass
from controlplane.gateways.report import GatewayReport
from controlplane.graph.collection import Source
from controlplane.graph.scheduler import Graph
from controlplane.inputs.mesh import MeshContext
from controlplane.inputs.sources import Inputs
from controlplane.proxies import objects, overlays, status
from controlplane.proxies.controller import Proxies
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.proxies.objects import Wanted
from controlplane.proxies.status import Observed
from meshapi import names
from meshapi.resources import base
from meshapi.resources.gateway import Gateway, GatewayClass
from meshkit import kube
from tests.support.fake_kubernetes import FakeKubernetes, Json
from tests.support.kubernetes_objects import gateway
from tests.support.waiting import until

MESH = MeshContext()
DEFAULTS = ProxyDefaults(
    image="waypoint:1",
    xds_address="istiod.istio-system.svc:15012",
    cluster_id="Kubernetes",
    cluster_domain="cluster.local",
    pull_secrets=("registry",),
    resources={"requests": {"cpu": "100m"}},
    pod={"nodeSelector": {"kubernetes.io/os": "linux"}},
)
NOW = "2026-01-01T00:00:00Z"


def read(**options: Any) -> Gateway:
    return base.read(Gateway, gateway(**options))


def render(item: Gateway, mesh: MeshContext = MESH, kind: ProxyClass = WAYPOINT) -> list[Wanted]:
    return objects.render(item, kind, mesh, DEFAULTS, objects.ports_of(item))


def rendered(mesh: MeshContext = MESH, **options: Any) -> dict[str, Json]:
    return {item.kind.name: item.body for item in render(read(**options), mesh)}


def pod(made: dict[str, Json]) -> Json:
    found: Json = made["Deployment"]["spec"]["template"]
    return found


def environment(made: dict[str, Json]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in pod(made)["spec"]["containers"][0]["env"]}


def test_a_waypoint_is_made_as_istio_makes_it() -> None:
    made = rendered()
    labels = {
        names.GATEWAY_NAME_LABEL: "waypoint",
        names.GATEWAY_CLASS_LABEL: "istio-waypoint",
        names.GATEWAY_MANAGED_LABEL: "istio.io-mesh-controller",
    }
    owner = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "waypoint", "uid": "uid-waypoint",
    }  # fmt: skip
    for body in made.values():
        assert body["metadata"]["name"] == "waypoint"
        assert body["metadata"]["labels"] == labels
        assert body["metadata"]["ownerReferences"] == [owner]
    template = pod(made)
    assert template["metadata"]["labels"][names.DATAPLANE_MODE_LABEL] == "none"
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "15020"
    [container] = template["spec"]["containers"]
    assert (container["name"], container["image"]) == ("istio-proxy", "waypoint:1")
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert made["Deployment"]["spec"]["selector"] == {"matchLabels": {names.GATEWAY_NAME_LABEL: "waypoint"}}
    assert "replicas" not in made["Deployment"]["spec"], "an autoscaler or a user decides"
    service = made["Service"]["spec"]
    assert [(one["name"], one["port"], one["appProtocol"]) for one in service["ports"]] == [
        ("status-port", 15021, "tcp"),
        ("mesh", 15008, "hbone"),
    ]
    assert service["selector"] == {names.GATEWAY_NAME_LABEL: "waypoint"}
    assert template["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_every_variable_of_the_pod_is_understood_by_the_host() -> None:
    from waypoint.settings import WaypointSettings

    given = environment(rendered())
    aliases = {"CA_ADDR", "ISTIO_CPU_LIMIT", "HOST_IP"}
    known = {name.upper() for name in WaypointSettings.model_fields} | aliases
    assert {name for name in given if not name.startswith("ISTIO_META_")} <= known
    mounts = pod(rendered())["spec"]["containers"][0]["volumeMounts"]
    folders = {one["mountPath"] for one in mounts}
    for path in (names.WORKLOAD_SDS_SOCKET, names.ENVOY_XDS_SOCKET, names.ENVOY_BOOTSTRAP):
        assert path.removeprefix(".").rpartition("/")[0] in folders
    for path in (names.TOKEN_PATH, names.ROOT_CERT_PATH, names.CRL_PATH):
        assert path.rpartition("/")[0] in folders


def test_labels_and_annotations_are_the_gateways_or_those_of_its_infrastructure() -> None:
    own = rendered(labels={"team": "a"}, annotations={"note": "x", names.GATEWAY_NAME_ANNOTATION: "other"})
    assert own["Service"]["metadata"]["labels"]["team"] == "a"
    assert own["Service"]["metadata"]["annotations"] == {
        "networking.istio.io/traffic-distribution": "PreferClose", "note": "x",
    }  # fmt: skip
    assert own["Deployment"]["metadata"]["name"] == "other"
    given = {"labels": {"team": "b", "gateway.networking.k8s.io/gateway-name": "spoofed"}, "annotations": {}}
    made = rendered(labels={"team": "a"}, annotations={"note": "x"}, infrastructure=given)
    assert made["Deployment"]["metadata"]["labels"]["team"] == "b"
    assert made["Deployment"]["metadata"]["labels"][names.GATEWAY_NAME_LABEL] == "waypoint"
    assert made["Deployment"]["metadata"]["annotations"] == {}


def test_the_account_the_type_of_the_service_and_log_levels_follow_annotations() -> None:
    made = rendered(
        annotations={
            names.GATEWAY_SERVICE_ACCOUNT_ANNOTATION: "mine",
            names.GATEWAY_SERVICE_TYPE_ANNOTATION: "NodePort",
            "sidecar.istio.io/logLevel": "debug",
        }
    )
    assert made["ServiceAccount"]["metadata"]["name"] == "mine"
    assert pod(made)["spec"]["serviceAccountName"] == "mine"
    assert made["Service"]["spec"]["type"] == "NodePort"
    assert environment(made)["PROXY_LOG_LEVEL"] == "debug"


def overlaid(*data: dict[str, str]) -> dict[str, Json]:
    return {item.kind.name: item.body for item in overlays.apply(render(read()), data)}


def test_an_overlay_is_a_strategic_merge_patch() -> None:
    deployment = """
    metadata: {annotations: {a: b}}
    spec:
      replicas: 3
      template:
        spec:
          terminationGracePeriodSeconds: 120
          nodeSelector: null
          containers:
          - name: istio-proxy
            env: [{name: EXTRA, value: "1"}]
            resources: {requests: {cpu: 1}}
            volumeMounts: [{mountPath: /extra, name: extra}]
          - {name: helper, image: helper:1}
          volumes:
          - {name: extra, emptyDir: {}}
          - {name: istio-data, $patch: delete}
    """
    made = overlaid({"deployment": deployment, "service": "spec: {ports: [{port: 80, name: http}]}"})
    spec = pod(made)["spec"]
    assert made["Deployment"]["spec"]["replicas"] == 3
    assert "nodeSelector" not in spec
    proxy, helper = spec["containers"]
    assert (proxy["name"], proxy["image"], helper["name"]) == ("istio-proxy", "waypoint:1", "helper")
    assert proxy["resources"] == {"requests": {"cpu": 1}}
    assert environment(made)["EXTRA"] == "1"
    assert environment(made)["POD_NAME"] is None
    assert environment(made)["TERMINATION_GRACE_PERIOD_SECONDS"] == "120", "the host must know how long it has"
    assert {"mountPath": "/extra", "name": "extra"} in proxy["volumeMounts"]
    volumes = {one["name"] for one in spec["volumes"]}
    assert "extra" in volumes
    assert "istio-data" not in volumes
    assert [one["port"] for one in made["Service"]["spec"]["ports"]] == [15021, 15008, 80]


def test_autoscaler_and_budget_exist_where_an_overlay_is_written_for_them() -> None:
    assert set(overlaid()) == {"ServiceAccount", "Deployment", "Service"}
    made = overlaid(
        {"horizontalPodAutoscaler": "spec: {maxReplicas: 5}", "podDisruptionBudget": "spec: {minAvailable: 1}"}
    )
    assert made["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 5
    assert made["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "waypoint"
    assert made["PodDisruptionBudget"]["spec"]["minAvailable"] == 1


def test_a_gateways_own_parameters_are_applied_after_its_classs() -> None:
    made = overlaid({"deployment": "spec: {replicas: 2}"}, {"deployment": "spec: {replicas: 4}"})
    assert made["Deployment"]["spec"]["replicas"] == 4


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"daemonset": "spec: {}"}, "daemonset is not known"),
        ({"deployment": "a: ["}, "is not YAML"),
        ({"deployment": "[1]"}, "is not an object"),
        ({"deployment": "metadata: {name: other}"}, "may change labels and annotations"),
        ({"deployment": "metadata: {namespace: kube-system}"}, "may change labels and annotations"),
        ({"service": "metadata: {ownerReferences: [{uid: x, $patch: replace}]}"}, "may change labels and annotations"),
        ({"deployment": "spec: {template: {spec: {containers: [{$patch: replace}]}}}"}, "must keep the container"),
        ({"deployment": "metadata: null"}, "may change labels and annotations"),
    ],
)
def test_an_overlay_that_cannot_be_used_is_refused(data: dict[str, str], said: str) -> None:
    with pytest.raises(overlays.BadOverlay, match=said):
        overlaid(data)


def conditions(found: Json) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in found["conditions"]}


READY = Observed(hostname="waypoint.shop.svc.cluster.local", addresses=("10.96.0.9",), ready=1)


def test_a_gateway_is_programmed_and_has_addresses_when_a_pod_is_ready() -> None:
    waiting = status.of_gateway(read(), Observed(hostname=READY.hostname, addresses=READY.addresses), {}, NOW)
    assert conditions(waiting) == {"Accepted": ("True", "Accepted"), "Programmed": ("False", "Pending")}
    assert waiting["addresses"] == []
    ready = status.of_gateway(read(), READY, waiting, "2026-01-02T00:00:00Z")
    assert conditions(ready)["Programmed"] == ("True", "Programmed")
    assert ready["addresses"] == [
        {"type": "IPAddress", "value": "10.96.0.9"},
        {"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"},
    ]
    times = {one["type"]: one["lastTransitionTime"] for one in ready["conditions"]}
    assert times == {"Accepted": NOW, "Programmed": "2026-01-02T00:00:00Z"}
    [listener] = ready["listeners"]
    assert listener["name"] == "mesh"
    assert conditions(listener)["Programmed"] == ("True", "Programmed")


def test_addresses_stay_while_no_pod_is_ready_so_that_nothing_goes_past_the_waypoint() -> None:
    ready = status.of_gateway(read(), READY, {}, NOW)
    gone = status.of_gateway(read(), Observed(hostname=READY.hostname, addresses=READY.addresses), ready, NOW)
    assert gone["addresses"] == ready["addresses"]
    assert conditions(gone)["Programmed"] == ("False", "Pending")


def test_a_listener_of_another_protocol_is_refused() -> None:
    item = read(listeners=[{"name": "web", "port": 80, "protocol": "HTTP"}])
    [listener] = status.of_gateway(item, READY, {}, NOW)["listeners"]
    assert conditions(listener)["Accepted"] == ("False", "UnsupportedProtocol")


@contextlib.asynccontextmanager
async def leading(api: FakeKubernetes) -> AsyncIterator[Inputs]:
    inputs = Inputs(graph := Graph(), MESH)
    reports: Source[tuple[str, str], GatewayReport] = Source(graph, "reports")
    async with kube.Client(kube.explicit(api.url)) as client, asyncio.TaskGroup() as tasks:
        proxies = Proxies(client, inputs, reports, DEFAULTS, lambda: datetime(2026, 1, 1, tzinfo=UTC))
        running = [tasks.create_task(one) for one in (*(one.run() for one in proxies.informers), proxies.run())]
        yield inputs
        for task in running:
            task.cancel()


def put(api: FakeKubernetes, inputs: Inputs, item: Json) -> None:
    api.put("gateways", item)
    found = base.read(Gateway, item)
    inputs.of(Gateway).set(found.key, found)


def held(api: FakeKubernetes, name: str = "waypoint") -> Json:
    return dict((api.get("gateways", name, "shop") or {}).get("status") or {})


async def test_a_waypoint_comes_to_be_and_its_status_follows_its_pods() -> None:
    async with FakeKubernetes() as api, leading(api) as inputs:
        await until(lambda: api.get("gatewayclasses", "istio-waypoint"))
        made = base.read(GatewayClass, dict(api.get("gatewayclasses", "istio-waypoint") or {}))
        assert made.spec.controller_name == "istio.io/mesh-controller"
        inputs.of(GatewayClass).set(made.key, made)
        put(api, inputs, gateway())
        await until(lambda: api.get("deployments", "waypoint", "shop"))
        await until(lambda: held(api).get("conditions"))
        assert conditions(held(api))["Programmed"] == ("False", "AddressNotAssigned")
        await until(lambda: conditions((api.get("gatewayclasses", "istio-waypoint") or {})["status"]))
        service = dict(api.get("services", "waypoint", "shop") or {})
        service["spec"]["clusterIPs"] = ["10.96.0.9"]
        api.put("services", service)
        api.put(
            "deployments", {**dict(api.get("deployments", "waypoint", "shop") or {}), "status": {"readyReplicas": 1}}
        )
        await until(lambda: conditions(held(api))["Programmed"] == ("True", "Programmed"))
        assert held(api)["addresses"][0]["value"] == "10.96.0.9"


async def test_an_object_of_the_name_that_is_not_ours_is_left_alone() -> None:
    async with FakeKubernetes() as api:
        foreign = {"metadata": {"name": "waypoint", "namespace": "shop"}, "spec": {"selector": {"app": "mine"}}}
        api.put("services", foreign)
        async with leading(api) as inputs:
            put(api, inputs, gateway())
            await until(lambda: held(api).get("conditions"))
            assert conditions(held(api))["Accepted"] == ("False", "Invalid")
            assert "Service waypoint exists" in held(api)["conditions"][0]["message"]
            assert (api.get("services", "waypoint", "shop") or {})["spec"] == {"selector": {"app": "mine"}}


async def test_parameters_are_read_from_a_config_map_and_a_missing_one_is_said() -> None:
    reference = {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "params"}}
    async with FakeKubernetes() as api, leading(api) as inputs:
        put(api, inputs, gateway(infrastructure=reference))
        await until(lambda: held(api).get("conditions"))
        assert conditions(held(api))["Accepted"] == ("False", "InvalidParameters")
        assert api.get("deployments", "waypoint", "shop") is None
        data = {"deployment": "spec: {replicas: 2}", "podDisruptionBudget": "spec: {minAvailable: 1}"}
        api.put("configmaps", {"metadata": {"name": "params"}, "data": data}, "shop")
        put(api, inputs, gateway(infrastructure=reference, labels={"changed": "yes"}))
        await until(lambda: (api.get("deployments", "waypoint", "shop") or {}).get("spec", {}).get("replicas") == 2)
        await until(lambda: api.get("poddisruptionbudgets", "waypoint", "shop"))
        put(api, inputs, gateway(labels={"changed": "again"}))
        await until(lambda: api.get("poddisruptionbudgets", "waypoint", "shop") is None)


@pytest.mark.parametrize(
    "item",
    [
        gateway(gatewayClassName="other"),
        gateway(name="manual")
        | {"spec": {"gatewayClassName": "istio-waypoint", "addresses": [{"type": "Hostname", "value": "x.shop.svc"}]}},
    ],
    ids=["another class", "its user runs it"],
)
async def test_a_gateway_that_is_not_ours_to_run_is_left_alone(item: Json) -> None:
    async with FakeKubernetes() as api, leading(api) as inputs:
        put(api, inputs, item)
        put(api, inputs, gateway(name="ours"))
        await until(lambda: held(api, "ours").get("conditions"))
        assert set(api.objects["deployments"]) == {("shop", "ours")}
        assert not held(api, item["metadata"]["name"]).get("conditions")
