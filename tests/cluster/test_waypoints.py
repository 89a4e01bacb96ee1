"""A Gateway becomes a waypoint that runs, and what is labelled is attached to it: by kubectl and the command line."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from meshapi import names
from meshlab import programs
from tests.support import manifests
from tests.support.lab import eventually
from tests.support.mesh import SYSTEM, Mesh

pytestmark = pytest.mark.root

NS = "waypoints"
SELECTOR = f"{names.GATEWAY_NAME_LABEL}=waypoint"
PARAMETERS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: parameters}
data:
  deployment: |
    spec:
      replicas: 2
      template: {spec: {containers: [{name: istio-proxy, resources: {requests: {cpu: 50m}}}]}}
  horizontalPodAutoscaler: "spec: {minReplicas: 2, maxReplicas: 3}"
  podDisruptionBudget: "spec: {minAvailable: 1}"
"""


@pytest.fixture(scope="module")
def app(mesh: Mesh) -> Iterator[Mesh]:
    mesh.namespace(NS, enrolled=True)
    mesh.echo(NS, "server", "node1", probe=False)
    mesh.client(NS, "client", "node2")
    for name in ("server", "client"):
        eventually(lambda name=name: mesh.captured(NS, name), f"{name} is captured")
    eventually(lambda: mesh.request(NS, "client", "server").endswith("hello"), "the server is reached")
    yield mesh
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def conditions(mesh: Mesh, kind: str, name: str) -> dict[str, tuple[str, str]]:
    found = mesh.lab.resource(kind, "-n", NS, name).get("status") or {}
    return {one["type"]: (one["status"], one["reason"]) for one in found.get("conditions") or ()}


def waypoint_of(mesh: Mesh, service: str) -> str:
    """The waypoint that ztunnels know for a service."""
    done = mesh.culvert("ztunnel-config", "services", "-n", NS, "-o", "json")
    [found] = [one for one in json.loads(done.stdout) if one["name"] == service]
    return str((found.get("waypoint") or {}).get("destination") or "")


def pods(mesh: Mesh) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = mesh.lab.resource("pods", "-n", NS, "-l", SELECTOR)["items"]
    return found


def test_a_waypoint_becomes_ready_and_the_namespaces_services_are_attached(app: Mesh) -> None:
    done = app.culvert("waypoint", "apply", "-n", NS, "--enroll-namespace", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert conditions(app, "gtw", "waypoint") == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
    }
    classes = app.lab.resource("gatewayclass", names.WAYPOINT_CLASS)["status"]["conditions"]
    assert [one["status"] for one in classes if one["type"] == "Accepted"] == ["True"]
    bound = ("True", "WaypointAccepted")
    eventually(lambda: conditions(app, "service", "server").get("istio.io/WaypointBound") == bound, "it is attached")
    assert "istio.io/WaypointBound" not in conditions(app, "service", "waypoint")
    eventually(lambda: waypoint_of(app, "server") == f"{NS}/waypoint.{NS}.svc.cluster.local", "ztunnels know it")
    assert waypoint_of(app, "waypoint") == ""


def test_the_waypoint_has_its_own_identity_and_answers_probes_scrapes_and_pilot_agent(app: Mesh) -> None:
    [pod] = pods(app)
    [container] = pod["spec"]["containers"]
    assert container["name"] == "istio-proxy"
    assert pod["spec"]["serviceAccountName"] == "waypoint"
    agent = ("pilot-agent", "request", "GET")
    assert app.lab.run("waypoint", *agent, "stats?filter=server.live", namespace=NS).strip() == "server.live: 1"
    page = f"http://{pod['status']['podIP']}:15020/stats/prometheus"
    text = app.lab.run("client", "curl", "-sS", "-m", "5", page, namespace=NS)
    assert "envoy_server_live" in text
    assert "culvert_waypoint_discovery_connected 1.0" in text
    done = app.culvert("proxy-status", "-o", "json")
    assert f"{pod['metadata']['name']}.{NS}" in done.stdout, done.stderr


def test_an_object_that_opts_out_is_reached_without_a_waypoint(app: Mesh) -> None:
    app.lab.kubectl("label", "service", "-n", NS, "server", f"{names.USE_WAYPOINT_LABEL}=none")
    eventually(lambda: waypoint_of(app, "server") == "", "ztunnels know that it has none")
    eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "the server is reached")
    eventually(lambda: not conditions(app, "service", "server"), "the condition is gone")
    app.lab.kubectl("label", "service", "-n", NS, "server", f"{names.USE_WAYPOINT_LABEL}-")
    eventually(lambda: waypoint_of(app, "server"), "it has one again")


def test_a_policy_for_a_service_holds_with_and_without_a_waypoint(app: Mesh) -> None:
    target = [{"group": "", "kind": "Service", "name": "server"}]
    spec = {"targetRefs": target, "rules": [{"to": [{"operation": {"ports": ["9000"]}}]}]}

    def answers() -> bool:
        return app.request(NS, "client", "server").endswith("hello")

    app.lab.kubectl("label", "service", "-n", NS, "server", f"{names.USE_WAYPOINT_LABEL}=none")
    app.lab.apply(manifests.item("AuthorizationPolicy", "security.istio.io/v1", "only", **spec), namespace=NS)
    eventually(lambda: not answers(), "without a waypoint nobody knows the service's port")

    def said() -> bool:
        found = app.lab.resource("authorizationpolicy", "-n", NS, "only").get("status", {}).get("conditions", ())
        messages = [one["message"] for one in found if one["type"] == "WaypointAccepted"]
        return any("layer 4 enforces this at its pods" in message for message in messages)

    eventually(said, "the policy's status says where it is enforced")
    app.lab.kubectl("label", "service", "-n", NS, "server", f"{names.USE_WAYPOINT_LABEL}-")
    eventually(answers, "the waypoint does")
    app.lab.kubectl("delete", "authorizationpolicy", "-n", NS, "only")


def test_parameters_scale_the_waypoint_and_add_autoscaler_and_budget(app: Mesh) -> None:
    app.lab.apply(PARAMETERS, namespace=NS)
    reference = {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "parameters"}}
    patch = json.dumps({"spec": {"infrastructure": {**reference, "labels": {"team": "a"}}}})
    app.lab.kubectl("patch", "gtw", "-n", NS, "waypoint", "--type=merge", "-p", patch)

    def both_ready() -> bool:
        ready = [one for one in pods(app) if one["metadata"]["labels"].get("team") == "a"]
        return len(ready) == 2 and all(one["status"].get("containerStatuses", [{}])[0].get("ready") for one in ready)

    eventually(both_ready, "two pods are ready", within_s=60)
    assert app.lab.resource("hpa", "-n", NS, "waypoint")["spec"]["maxReplicas"] == 3
    assert app.lab.resource("pdb", "-n", NS, "waypoint")["spec"]["minAvailable"] == 1
    app.lab.kubectl("patch", "gtw", "-n", NS, "waypoint", "--type=json", "-p",
                    '[{"op": "remove", "path": "/spec/infrastructure"}]')  # fmt: skip
    gone = ("get", "hpa,pdb", "-n", NS, "-o", "name")
    eventually(lambda: not app.lab.kubectl(*gone).strip(), "what was made for the parameters is gone", within_s=30)


def test_a_terminated_pod_drains_and_ends_by_itself(app: Mesh) -> None:
    app.lab.rolled_out("waypoint", namespace=NS)
    name = pods(app)[0]["metadata"]["name"]
    program = app.command(NS, "waypoint")[0]
    log = subprocess.Popen(
        [program, f"--kubeconfig={app.lab.kubeconfig}", "logs", "-f", "-n", NS, name], stdout=subprocess.PIPE, text=True
    )
    app.lab.kubectl("delete", "pod", "-n", NS, name, "--wait", timeout_s=60)
    output, _ = log.communicate(timeout=30)
    assert "drained" in output, output
    assert "streams_cut=0" in output
    app.lab.rolled_out("waypoint", namespace=NS)


def test_definitions_of_another_owner_are_left_alone_and_our_own_follow_the_chart(app: Mesh) -> None:
    name = "gateways.gateway.networking.k8s.io"
    istiod = app.lab.resource("deploy", "-n", SYSTEM, "istiod")["spec"]["template"]["spec"]["containers"][0]
    tag = istiod["image"].rpartition(":")[2]

    def install(channel: str, *, owner: str) -> str:
        note = f"meta.helm.sh/release-name={owner}"
        app.lab.kubectl("annotate", "crd", name, note, "--overwrite")
        values = [f"gatewayAPI.channel={channel}", f"image.tag={tag}"]
        options = [f"--helm={programs.helm(print) / 'helm'}", *(f"--set={value}" for value in values)]
        done = app.culvert("install", *options)
        assert done.returncode == 0, done.stderr
        found = app.lab.resource("crd", name)["metadata"]["annotations"]["gateway.networking.k8s.io/channel"]
        return str(found)

    assert install("experimental", owner="culvert") == "experimental"
    assert install("standard", owner="another") == "experimental", "another's stay as they are"
    assert install("none", owner="culvert") == "experimental", "they are kept: all Gateways depend on them"
    assert app.lab.resource("gtw", "-n", NS, "waypoint")


def test_a_deleted_waypoint_leaves_nothing_and_its_services_are_reached_directly(app: Mesh) -> None:
    listed = app.culvert("waypoint", "list", "-n", NS)
    assert "waypoint" in listed.stdout
    done = app.culvert("waypoint", "delete", "-n", NS, "waypoint")
    assert done.returncode == 0, done.stderr
    what = ("get", "deploy,svc,sa,pods", "-n", NS, "-l", SELECTOR, "-o", "name")
    eventually(lambda: not app.lab.kubectl(*what).strip(), "everything of it is gone", within_s=60)
    problem = ("False", "WaypointIsNotReady")
    eventually(lambda: conditions(app, "service", "server").get("istio.io/WaypointBound") == problem, "it is said")
    eventually(lambda: app.request(NS, "client", "server").endswith("hello"), "the server is reached")
    assert "No waypoints found" in app.culvert("waypoint", "status", "-n", NS).stdout
