"""Bookinfo through a waypoint, by kubectl alone: routes, faults, policies, their conditions, metrics, a rollout."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from meshapi import names
from tests.support.lab import ROOT, eventually
from tests.support.mesh import Mesh

pytestmark = pytest.mark.root

NS = "bookinfo"
FORMAT = "\n%{http_code}"
SUBSETS: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "reviews"},
    "spec": {"host": "reviews", "subsets": [{"name": f"v{n}", "labels": {"version": f"v{n}"}} for n in (1, 2, 3)]},
}


def virtual_service(*rules: dict[str, object], host: str = "reviews") -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": host},
            "spec": {"hosts": [host], "http": list(rules)},
        }
    )


def to(version: str, **more: object) -> dict[str, object]:
    return {"route": [{"destination": {"host": "reviews", "subset": version}}], **more}


class Bookinfo:
    """The application, called from a pod of the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def get(self, url: str, *options: str) -> tuple[int, str]:
        """Status and body of one request."""
        command = ("curl", "-sS", "-m", "15", "-w", FORMAT, *options, url)
        body, _, status = self.mesh.lab.run("curl", *command, namespace=NS, check=False).rpartition("\n")
        return int(status or 0), body

    def version(self, *options: str) -> str:
        """Version of the reviews that answers."""
        status, body = self.get("http://reviews:9080/reviews/0", *options)
        found = re.search(r'"podname": ?"reviews-(v\d)', body)
        return found[1] if found else f"status {status}: {body[:200]}"

    def versions(self, count: int) -> Counter[str]:
        """Versions that answer many requests, one after the other in one process."""
        loop = f"for i in $(seq {count}); do curl -sS -m 5 http://reviews:9080/reviews/0 || echo failed; echo; done"
        text = self.mesh.lab.run("curl", "sh", "-c", loop, namespace=NS)
        return Counter(re.findall(r'"podname": ?"reviews-(v\d)', text))

    def apply(self, *texts: str) -> None:
        self.mesh.lab.apply(*texts, namespace=NS)

    def condition(self, kind: str, name: str) -> dict[str, str]:
        status = self.mesh.lab.resource(kind, name, "-n", NS).get("status") or {}
        found = [one for one in status.get("conditions") or () if one["type"] == "WaypointAccepted"]
        return found[0] if found else {}


@pytest.fixture(scope="module")
def bookinfo(mesh: Mesh) -> Iterator[Bookinfo]:
    mesh.namespace(NS, enrolled=True)
    mesh.lab.apply(ROOT / "samples/bookinfo/platform/kube/bookinfo.yaml", ROOT / "samples/curl/curl.yaml", namespace=NS)
    names_of = ("productpage-v1", "details-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3", "curl")
    mesh.lab.rolled_out(*names_of, namespace=NS, timeout_s=120)
    mesh.waypoint(NS)
    app = Bookinfo(mesh)
    app.apply(yaml.safe_dump(SUBSETS))
    eventually(lambda: app.version().startswith("v"), "reviews are reached through the waypoint")
    yield app
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def test_requests_are_routed_by_a_header(bookinfo: Bookinfo) -> None:
    jason = to("v2", match=[{"headers": {"end-user": {"exact": "jason"}}}])
    bookinfo.apply(virtual_service(jason, to("v1")))
    eventually(lambda: bookinfo.version("-H", "end-user: jason") == "v2", "jason sees v2")
    assert {bookinfo.version() for _ in range(5)} == {"v1"}
    eventually(lambda: bookinfo.condition("virtualservice", "reviews").get("status") == "True", "it is in force")
    assert f"waypoint {NS}/waypoint" in bookinfo.condition("virtualservice", "reviews")["message"]


def test_requests_are_divided_by_weights(bookinfo: Bookinfo) -> None:
    route = [{"destination": {"host": "reviews", "subset": v}, "weight": w} for v, w in (("v1", 80), ("v3", 20))]
    bookinfo.apply(virtual_service({"route": route}))
    eventually(lambda: "v3" in bookinfo.versions(40), "both versions answer")
    found = bookinfo.versions(300)
    assert set(found) == {"v1", "v3"}
    assert found.total() == 300
    assert 30 <= found["v3"] <= 92, "four and a half standard deviations"


def test_faults_are_for_one_user(bookinfo: Bookinfo) -> None:
    jason = [{"headers": {"end-user": {"exact": "jason"}}}]
    abort = {"abort": {"httpStatus": 500, "percentage": {"value": 100}}}
    bookinfo.apply(virtual_service(to("v1", match=jason, fault=abort), to("v1")))
    url = "http://reviews:9080/reviews/0"
    eventually(lambda: bookinfo.get(url, "-H", "end-user: jason")[0] == 500, "jason gets the fault")
    assert bookinfo.get(url)[0] == 200


def test_a_timeout_ends_a_delayed_request(bookinfo: Bookinfo) -> None:
    delay = {"delay": {"fixedDelay": "2s", "percentage": {"value": 100}}}
    ratings = {"route": [{"destination": {"host": "ratings"}}], "fault": delay}
    bookinfo.apply(virtual_service(ratings, host="ratings"), virtual_service(to("v2", timeout="0.5s")))
    eventually(lambda: bookinfo.get("http://reviews:9080/reviews/0")[0] == 504, "reviews time out")
    bookinfo.mesh.lab.kubectl("delete", "virtualservice", "ratings", "-n", NS)
    bookinfo.apply(virtual_service(to("v2")))
    eventually(lambda: bookinfo.version() == "v2", "without the fault they do not")


def test_a_policy_is_in_force_when_its_condition_says_so(bookinfo: Bookinfo) -> None:
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "reviews"},
        "spec": {
            "targetRefs": [{"kind": "Service", "group": "", "name": "reviews"}],
            "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
        },
    }
    bookinfo.apply(yaml.safe_dump(policy))
    eventually(lambda: bookinfo.condition("authorizationpolicy", "reviews").get("status") == "True", "it is bound")
    url = "http://reviews:9080/reviews/0"
    eventually(lambda: bookinfo.get(url, "-X", "POST")[0] == 403, "POST is denied")
    assert bookinfo.get(url)[0] == 200
    bookinfo.mesh.lab.kubectl("delete", "authorizationpolicy", "reviews", "-n", NS)
    eventually(lambda: bookinfo.get(url, "-X", "POST")[0] != 403, "it is gone")


def test_a_route_of_gateway_api_goes_before_virtual_services_and_has_a_status(bookinfo: Bookinfo) -> None:
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "reviews"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "reviews", "port": 9080}],
            "rules": [{"backendRefs": [{"name": "reviews-v3", "port": 9080}]}],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "reviews-v3"},
        "spec": {"selector": {"app": "reviews", "version": "v3"}, "ports": [{"name": "http", "port": 9080}]},
    }
    bookinfo.apply(yaml.safe_dump(service), yaml.safe_dump(route))
    eventually(lambda: bookinfo.version() == "v3", "the route counts")

    def parents() -> dict[str, str]:
        status = bookinfo.mesh.lab.resource("httproute", "reviews", "-n", NS).get("status") or {}
        found = [one for one in status.get("parents") or () if one["controllerName"] == names.WAYPOINT_CONTROLLER]
        return {one["type"]: one["status"] for entry in found for one in entry["conditions"]}

    fulfilled = {"Accepted": "True", "ResolvedRefs": "True", "WaypointAccepted": "True"}
    eventually(lambda: parents() == fulfilled, "its status says so")
    bookinfo.mesh.lab.kubectl("delete", "httproute", "reviews", "-n", NS)
    eventually(lambda: bookinfo.version() == "v2", "the VirtualService counts again")


def test_metrics_are_istios_with_the_names_of_both_ends(bookinfo: Bookinfo) -> None:
    assert bookinfo.version() == "v2"
    scrape = ("pilot-agent", "request", "GET", "/stats/prometheus")

    def series() -> list[dict[str, str]]:
        text = bookinfo.mesh.lab.run("waypoint", *scrape, namespace=NS)
        lines = [line for line in text.splitlines() if "istio_requests_total{" in line]
        return [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in lines]

    wanted = {
        "reporter": "waypoint",
        "source_workload": "curl",
        "source_workload_namespace": NS,
        "source_principal": f"spiffe://cluster.local/ns/{NS}/sa/curl",
        "destination_workload": "reviews-v2",
        "destination_workload_namespace": NS,
        "destination_principal": f"spiffe://cluster.local/ns/{NS}/sa/bookinfo-reviews",
        "destination_canonical_service": "reviews",
        "destination_canonical_revision": "v2",
        "destination_service": f"reviews.{NS}.svc.cluster.local",
        "destination_service_name": "reviews",
        "destination_service_namespace": NS,
        "request_protocol": "http",
        "response_code": "200",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
    }
    eventually(lambda: any(wanted.items() <= one.items() for one in series()), f"a series with {wanted}: {series()}")


def test_requests_are_in_the_waypoints_access_log_where_a_telemetry_says_so(bookinfo: Bookinfo) -> None:
    telemetry = {
        "apiVersion": "telemetry.istio.io/v1",
        "kind": "Telemetry",
        "metadata": {"name": "logs"},
        "spec": {
            "accessLogging": [{"providers": [{"name": "envoy"}], "filter": {"expression": "response.code < 400"}}]
        },
    }
    bookinfo.apply(yaml.safe_dump(telemetry))

    def is_logged() -> bool:
        bookinfo.get("http://reviews:9080/reviews/0")
        log = bookinfo.mesh.lab.kubectl("logs", "-n", NS, "deploy/waypoint", "--since=60s")
        return any('"GET /reviews/0 HTTP/1.1" 200' in line and "reviews:9080" in line for line in log.splitlines())

    eventually(is_logged, "a request has a line")
    eventually(lambda: bookinfo.condition("telemetry", "logs").get("status") == "True", "it is in force")
    bookinfo.mesh.lab.kubectl("delete", "telemetry", "logs", "-n", NS)


def test_a_changed_destination_rule_counts_for_a_proxy_that_runs(bookinfo: Bookinfo) -> None:
    over_tls = {**SUBSETS, "spec": {**SUBSETS["spec"], "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}}
    bookinfo.apply(yaml.safe_dump(over_tls))
    eventually(lambda: bookinfo.get("http://reviews:9080/reviews/0")[0] == 503, "TLS is spoken, which pods do not take")
    bookinfo.apply(yaml.safe_dump(SUBSETS))
    eventually(lambda: bookinfo.version().startswith("v"), "it is no longer spoken")


def test_a_pod_is_called_by_its_own_address_through_a_waypoint_for_workloads(bookinfo: Bookinfo) -> None:
    waypoint = ("waypoint", "apply", "-n", NS, "--name", "direct", "--for", "workload", "--wait", "--timeout", "60")
    done = bookinfo.mesh.culvert(*waypoint)
    assert done.returncode == 0, done.stderr
    label = f"{names.USE_WAYPOINT_LABEL}=direct"
    bookinfo.mesh.lab.kubectl("label", "pod", "-n", NS, "-l", "app=reviews,version=v3", label)
    [pod] = bookinfo.mesh.lab.resource("pods", "-n", NS, "-l", "app=reviews,version=v3")["items"]
    url = f"http://{pod['status']['podIP']}:9080/reviews/0"
    eventually(lambda: "istio-envoy" in bookinfo.get(url, "-i")[1], "the answer comes through a proxy", within_s=30)
    assert bookinfo.get(url)[0] == 200
    denied = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "direct"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "direct"}],
            "action": "DENY",
            "rules": [{"to": [{"operation": {"methods": ["POST"]}}]}],
        },
    }
    bookinfo.apply(yaml.safe_dump(denied))
    eventually(lambda: bookinfo.get(url, "-X", "POST")[0] == 403, "the policy counts for the address")
    assert bookinfo.get(url)[0] == 200
    bookinfo.mesh.lab.kubectl("delete", "authorizationpolicy/direct", "gtw/direct", "-n", NS, "--wait")
    bookinfo.mesh.lab.kubectl("label", "pod", "-n", NS, "-l", "version=v3", f"{names.USE_WAYPOINT_LABEL}-")


def test_a_rollout_of_the_waypoint_fails_no_request(bookinfo: Bookinfo) -> None:
    results: list[str] = []
    request = "curl -s -o /dev/null -m 5 -w '%{http_code}\\n' http://reviews:9080/reviews/0"
    loop = f"for i in $(seq 150); do {request}; sleep 0.05; done"
    load = threading.Thread(target=lambda: results.append(bookinfo.mesh.lab.kubectl(
        "exec", "-n", NS, "deploy/curl", "--", "sh", "-c", loop, timeout_s=120)))  # fmt: skip
    load.start()
    time.sleep(1)
    bookinfo.mesh.lab.kubectl("rollout", "restart", "deploy/waypoint", "-n", NS)
    bookinfo.mesh.lab.rolled_out("waypoint", namespace=NS, timeout_s=90)
    load.join()
    assert Counter(results[0].split()) == {"200": 150}


def test_what_the_proxy_refuses_is_on_the_object_within_seconds(bookinfo: Bookinfo) -> None:
    """An expression that Python takes and RE2 does not; the last good rules stay."""
    bad = to("v1", match=[{"uri": {"regex": "/(?=reviews).*"}}])
    bookinfo.apply(virtual_service(bad, to("v3")))
    condition = eventually(
        lambda: (one := bookinfo.condition("virtualservice", "reviews")).get("reason") == "RejectedByProxy" and one,
        "the refusal is on the object",
    )
    assert "invalid perl operator" in condition["message"]
    assert bookinfo.version() == "v2", "the last good form"
    bookinfo.apply(virtual_service(to("v3")))
    eventually(lambda: bookinfo.version() == "v3", "a good one counts again")
    eventually(lambda: bookinfo.condition("virtualservice", "reviews").get("status") == "True", "and says so")
