"""Gateway injection: Deployments as Istio's chart and documentation have them become gateways of ours."""

import base64
import copy
import json
import ssl
from typing import Any

import aiohttp
import pytest
import yaml

from controlplane.gateways import place
from controlplane.gateways.classes import EDGE
from controlplane.inputs.mesh import MeshContext
from controlplane.proxies import pods
from controlplane.proxies.defaults import ProxyDefaults
from controlplane.webhook.injection import inject
from controlplane.webhook.review import BadReview
from meshapi import names
from meshapi.resources import base, core, gateway
from tests.support.running_control_plane import Running
from tests.support.waiting import until

Json = dict[str, Any]
MESH = MeshContext(trust_domain="td.example")
DEFAULTS = ProxyDefaults("registry.example/waypoint:7", "istiod.istio-system.svc:15012", "c1", "cluster.local")
OF_CHART = """
metadata:
  generateName: istio-ingress-6b7c8d-
  annotations:
    inject.istio.io/templates: gateway
    prometheus.io/path: /stats/prometheus
    prometheus.io/port: "15020"
    prometheus.io/scrape: "true"
  labels:
    sidecar.istio.io/inject: "true"
    app: istio-ingress
    istio: ingress
    pod-template-hash: 6b7c8d
    service.istio.io/canonical-name: istio-ingress
    service.istio.io/canonical-revision: latest
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: istio-ingress-6b7c8d, uid: u, controller: true}]
spec:
  serviceAccountName: istio-ingress
  terminationGracePeriodSeconds: 45
  securityContext:
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
  containers:
    - name: istio-proxy
      image: auto
      imagePullPolicy: Always
      terminationMessagePath: /dev/termination-log
      securityContext:
        capabilities: {drop: [ALL]}
        allowPrivilegeEscalation: false
        privileged: false
        readOnlyRootFilesystem: true
        runAsUser: 1337
        runAsGroup: 1337
        runAsNonRoot: true
      env: [{name: ISTIO_META_UNPRIVILEGED_POD, value: "true"}, {name: LOG_LEVEL, value: debug}]
      ports: [{name: http-envoy-prom, containerPort: 15090, protocol: TCP}]
      resources: {limits: {cpu: 2000m, memory: 1024Mi}, requests: {cpu: 100m, memory: 128Mi}}
      volumeMounts: [{name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]
  volumes: [{name: kube-api-access-x, projected: {sources: []}}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]
"""
OF_DOCUMENTATION = """
metadata:
  generateName: istio-ingressgateway-7d4-
  annotations: {inject.istio.io/templates: gateway}
  labels: {istio: ingressgateway, sidecar.istio.io/inject: "true", pod-template-hash: 7d4}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: istio-ingressgateway-7d4, uid: u, controller: true}]
spec:
  containers:
    - name: istio-proxy
      image: auto
"""


def item(text: str = OF_CHART, **changes: Any) -> Json:
    found: Json = yaml.safe_load(text)
    found["metadata"] |= changes.pop("metadata", {})
    found["spec"]["containers"][0] |= changes.pop("container", {})
    found["spec"] |= changes
    return found


def request(pod: Json) -> bytes:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    asked = {"uid": "u-1", "kind": kind, "namespace": "edge", "operation": "CREATE", "object": pod}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}).encode()


def response(pod: Json, defaults: ProxyDefaults = DEFAULTS) -> Json:
    found: Json = inject(request(pod), MESH, defaults).answer()["response"]
    return found


def patched(pod: Json, answer: Json) -> Json:
    """The pod as the API server makes it of the answer."""
    assert answer["allowed"] and answer["patchType"] == "JSONPatch"
    result = copy.deepcopy(pod)
    for change in json.loads(base64.b64decode(answer["patch"])):
        *way, last = change["path"].removeprefix("/").split("/")
        at: Any = result
        for part in way:
            at = at[int(part)] if isinstance(at, list) else at[part]
        if isinstance(at, list) and change["op"] == "add":  # RFC 6902, 4.1: elements from there on move
            at.insert(int(last), change["value"])
        else:
            at[int(last) if isinstance(at, list) else last] = change["value"]
    return result


def injected(pod: Json, defaults: ProxyDefaults = DEFAULTS) -> Json:
    return patched(pod, response(pod, defaults))


@pytest.mark.parametrize("text", [OF_CHART, OF_DOCUMENTATION], ids=["chart", "documentation"])
def test_it_has_all_that_the_pods_have_which_the_control_plane_makes(text: str) -> None:
    before, found = item(text), injected(item(text))
    workload = before["metadata"]["ownerReferences"][0]["name"].rpartition("-")[0]
    named = {"name": "g", "namespace": "edge"}
    one = base.read(gateway.Gateway, {"metadata": named, "spec": {"gatewayClassName": "istio"}})
    made = pods.template(one, EDGE, MESH, DEFAULTS, name=workload, account="", labels={}, annotations={})
    [container], [other] = found["spec"]["containers"], made["spec"]["containers"]
    assert container["image"] == "registry.example/waypoint:7"
    assert container["imagePullPolicy"] == "IfNotPresent", "the API server's own for an image without tag is not"
    for field in ("startupProbe", "readinessProbe", "securityContext"):
        assert container[field] == other[field], field
    for field, key in (("volumeMounts", "mountPath"), ("ports", "containerPort")):
        assert {one[key] for one in other[field]} <= {one[key] for one in container[field]}, field
    given = {one["name"] for one in before["spec"]["containers"][0].get("env", ())}
    ours = {one["name"]: one for one in container["env"]}
    grace = str(before["spec"].get("terminationGracePeriodSeconds", 30))
    expected = {one["name"]: one for one in other["env"] if one["name"] not in given}
    expected["TERMINATION_GRACE_PERIOD_SECONDS"]["value"] = grace
    assert {name: one for name, one in ours.items() if name not in given} == expected
    assert ours["TRUST_DOMAIN"]["value"] == "td.example"
    assert ours["ISTIO_META_WORKLOAD_NAME"]["value"] == workload
    assert made["spec"]["volumes"] == [one for one in found["spec"]["volumes"] if one["name"] != "kube-api-access-x"]
    assert found["spec"]["securityContext"] == made["spec"]["securityContext"]


def test_what_a_pod_has_of_its_own_stays() -> None:
    before = item()
    found = injected(before)
    for part in ("labels", "annotations"):
        assert before["metadata"][part].items() <= found["metadata"][part].items()
    [own], [container] = before["spec"]["containers"], found["spec"]["containers"]
    for field in ("securityContext", "resources", "terminationMessagePath"):
        assert container[field] == own[field], field
    for field in ("env", "ports", "volumeMounts"):
        assert container[field][: len(own[field])] == own[field], field
        assert len({json.dumps(one) for one in container[field]}) == len(container[field])
    assert [one["name"] for one in container["env"]].count("LOG_LEVEL") == 1
    for field in ("serviceAccountName", "terminationGracePeriodSeconds", "topologySpreadConstraints"):
        assert found["spec"][field] == before["spec"][field], field


def test_settings_of_users_go_before_ours() -> None:
    more: Json = {
        "image": "mine:1",
        "imagePullPolicy": "Always",
        "readinessProbe": {"exec": {"command": ["true"]}},
        "livenessProbe": {"exec": {"command": ["true"]}},
        "args": ["--log-level=debug"],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "own", "mountPath": "/etc/istio/proxy"}],
        "ports": [{"name": "metrics", "containerPort": 9000}],
    }
    before = item(container=more, securityContext={"fsGroup": 7}, volumes=[{"name": "own", "emptyDir": {}}])
    [container] = injected(before)["spec"]["containers"]
    for field in ("image", "imagePullPolicy", "readinessProbe", "livenessProbe", "args"):
        assert container[field] == more[field], field
    assert (container["securityContext"]["runAsUser"], container["securityContext"]["runAsNonRoot"]) == (0, False)
    assert [one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/etc/istio/proxy"] == ["own"]
    assert [one["containerPort"] for one in container["ports"] if one["name"] == "metrics"] == [9000]
    security = injected(before)["spec"]["securityContext"]
    assert security["fsGroup"] == 7
    assert security["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]


def test_a_pod_in_the_nodes_network_gets_no_sysctls() -> None:
    assert "sysctls" not in injected(item(OF_DOCUMENTATION, hostNetwork=True))["spec"]["securityContext"]


def test_other_containers_stay_as_they_are_and_secrets_for_images_are_added() -> None:
    before = item()
    before["spec"]["containers"].insert(0, {"name": "helper", "image": "helper:1"})
    before["spec"]["imagePullSecrets"] = [{"name": "own"}]
    found = injected(before, ProxyDefaults("i", "x", "c", "d", pull_secrets=("ours",)))
    assert found["spec"]["containers"][0] == {"name": "helper", "image": "helper:1"}
    assert found["spec"]["containers"][1]["image"] == "i"
    assert found["spec"]["imagePullSecrets"] == [{"name": "own"}, {"name": "ours"}]


def test_a_gateway_is_never_captured_and_its_place_is_that_of_its_deployment() -> None:
    found = injected(item())
    assert found["metadata"]["labels"][names.DATAPLANE_MODE_LABEL] == names.DATAPLANE_MODE_NONE
    found["metadata"] |= {"name": "istio-ingress-6b7c8d-x", "namespace": "edge"}
    assert place.of_pod(base.read(core.Pod, found)).workload == "istio-ingress"


def test_pods_of_a_daemon_set_say_so() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "istio-ingress", "uid": "u", "controller": True}
    [container] = injected(item(metadata={"ownerReferences": [owner]}))["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["ISTIO_META_OWNER"] == "kubernetes://apis/apps/v1/namespaces/edge/daemonsets/istio-ingress"
    assert env["ISTIO_META_WORKLOAD_NAME"] == "istio-ingress"


@pytest.mark.parametrize("part", ["annotations", "labels"])
def test_the_template_may_be_an_annotation_or_a_label_among_others(part: str) -> None:
    text = {"annotations": {}, "labels": {"istio.io/rev": "default"}}
    asked = text | {part: {**text[part], names.INJECT_TEMPLATES: "custom,gateway"}}
    assert injected(item(metadata=asked))["spec"]["containers"][0]["image"] == "registry.example/waypoint:7"


def test_who_asks_for_a_sidecar_is_admitted_unchanged_and_told() -> None:
    found = response(item(metadata={"annotations": {}}))
    assert found["allowed"] and "patch" not in found
    [warning] = found["warnings"]
    assert "Culvert has no sidecars" in warning
    assert "inject.istio.io/templates: gateway" in warning


def test_a_gateway_without_its_container_is_told_what_to_add() -> None:
    found = response(item(container={"name": "web"}))
    assert found["allowed"] and "patch" not in found
    assert found["warnings"] == [
        "the pod is admitted as it is: it asks to be a gateway and has no container istio-proxy; "
        "add one with image: auto"
    ]


def test_who_asks_not_to_be_injected_is_left_alone() -> None:
    labels = {"istio.io/rev": "default", names.INJECT_LABEL: "false"}
    assert response(item(metadata={"labels": labels})) == {"uid": "u-1", "allowed": True}


def test_without_an_image_the_pod_is_refused_with_the_setting() -> None:
    found = response(item(), ProxyDefaults("", "x", "c", "d"))
    assert not found["allowed"]
    assert "Pod edge/istio-ingress-6b7c8d-" in found["status"]["message"]
    assert "waypoint.image" in found["status"]["message"]


def test_a_pod_that_cannot_be_read_is_refused_with_the_field() -> None:
    found = response(item(serviceAccountName=5, hostNetwork="often"))
    assert not found["allowed"]
    assert "hostNetwork" in found["status"]["message"] or "serviceAccountName" in found["status"]["message"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"request": 1}', b'{"request": {"uid": "u", "object": {}}}'])
def test_what_is_no_request_says_so(body: bytes) -> None:
    with pytest.raises(BadReview, match="not a request"):
        inject(body, MESH, DEFAULTS)


async def test_the_control_plane_serves_it_and_adds_its_roots(running: Running) -> None:
    called = {"service": {"name": "istiod", "namespace": "istio-system", "path": "/inject"}}
    webhook = {"name": "object.sidecar-injector.istio.io", "clientConfig": called, "failurePolicy": "Fail"}
    running.api.put("mutatingwebhookconfigurations", {"metadata": {"name": names.INJECTOR}, "webhooks": [webhook]})

    def bundle() -> bytes:
        held = running.api.get("mutatingwebhookconfigurations", names.INJECTOR)
        assert held is not None
        return base64.b64decode(held["webhooks"][0]["clientConfig"].get("caBundle", ""))

    await until(lambda: bundle() == running.root_file.read_bytes())
    trust = ssl.create_default_context(cadata=bundle().decode())
    url = f"https://{running.settings.webhook_address}/inject"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=request(item()), ssl=trust, server_hostname="istiod.istio-system.svc") as answer,
    ):
        assert answer.status == 200
        found = (await answer.json())["response"]
    assert found["uid"] == "u-1"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b"?", ssl=trust, server_hostname="istiod.istio-system.svc") as answer,
    ):
        assert answer.status == 400
