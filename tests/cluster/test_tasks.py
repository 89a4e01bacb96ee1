"""What Istio's documents walk through, on the lab, by kubectl alone: retries, circuits, tokens, OPA, TLS."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from meshapi import names
from meshlab import images, lab
from meshlab.progress import Progress
from tests.scenarios.test_opa import POLICY, PORT
from tests.support import manifests, program_images
from tests.support.authority import TestAuthority
from tests.support.lab import ROOT, eventually
from tests.support.mesh import Mesh
from tests.support.tokens import ISSUER, TokenIssuer

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # with the builds

NS = "tasks"
OUTSIDE = "tasks-outside"
HTTPBIN = "http://httpbin:8000"
TARGET = [{"group": "", "kind": "Service", "name": "httpbin"}]


class Tasks:
    """A namespace with a waypoint, httpbin in two versions, and a client."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def curl(self, path: str, *options: str) -> int:
        """Status of one request."""
        command = ("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *options, f"{HTTPBIN}{path}")
        return int(self.mesh.lab.run("curl", *command, namespace=NS, check=False) or 0)

    def put(self, kind: str, version: str, name: str = "httpbin", /, **spec: Any) -> None:
        """Apply an object and wait until it is in force."""
        self.mesh.lab.apply(manifests.item(kind, version, name, **spec), namespace=NS)
        self.mesh.in_force(kind, name, NS)

    def virtual_service(self, *rules: dict[str, Any], **more: Any) -> None:
        self.put("VirtualService", "networking.istio.io/v1", hosts=["httpbin"], http=list(rules), **more)

    def remove(self, *kinds: str) -> None:
        for kind in kinds:
            self.mesh.lab.kubectl("delete", kind, "httpbin", "-n", NS, "--ignore-not-found")

    def logged(self, deployment: str, words: str) -> int:
        """How many lines of a Deployment's log have some words."""
        return self.mesh.lab.kubectl("logs", "-n", NS, f"deploy/{deployment}", "--tail=-1").count(words)

    def waypoint_stat(self, pattern: str) -> int:
        """A sum of the waypoint's counters."""
        agent = ("pilot-agent", "request", "GET", f"stats?filter={pattern}")
        text = self.mesh.lab.run("waypoint", *agent, namespace=NS)
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines() if ": " in line)


@pytest.fixture(scope="module")
def tasks(mesh: Mesh) -> Iterator[Tasks]:
    lab.load_images(mesh.lab.name, [make(Progress().say) for make in (images.fortio, program_images.opa)])
    mesh.namespace(NS, enrolled=True)
    httpbin = (ROOT / "samples/httpbin/httpbin.yaml").read_text()
    second = next(one for one in yaml.safe_load_all(httpbin) if one["kind"] == "Deployment")
    second["metadata"]["name"] = "httpbin-v2"
    for labels in (second["metadata"]["labels"], second["spec"]["selector"]["matchLabels"]):
        labels["version"] = "v2"
    second["spec"]["template"]["metadata"]["labels"]["version"] = "v2"
    mesh.lab.apply(httpbin, yaml.safe_dump(second), ROOT / "samples/curl/curl.yaml", namespace=NS)
    mesh.lab.apply(
        ROOT / "samples/tcp-echo/tcp-echo-services.yaml",
        _program("fortio", images.FORTIO, "sleep", "900"),
        namespace=NS,
    )
    mesh.lab.rolled_out("httpbin", "httpbin-v2", "curl", "tcp-echo-v1", "tcp-echo-v2", "fortio", namespace=NS)
    mesh.waypoint(NS)
    found = Tasks(mesh)
    versions = [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")]
    found.put("DestinationRule", "networking.istio.io/v1", "versions", host="httpbin", subsets=versions)
    eventually(lambda: found.curl("/get") == 200, "httpbin is reached through the waypoint")
    yield found
    mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")


def _program(name: str, image: str, *command: str, volume: str = "") -> str:
    """A Deployment of a program, with a config map in the folder of its name."""
    container: dict[str, Any] = {"image": image, "command": [*command]}
    if not volume:
        return manifests.deployment(name, container, terminationGracePeriodSeconds=1)
    container["volumeMounts"] = [{"name": volume, "mountPath": f"/{volume}"}]
    volumes = [{"name": volume, "configMap": {"name": volume}}]
    return manifests.deployment(name, container, terminationGracePeriodSeconds=1, volumes=volumes)


def to(version: str, **more: Any) -> dict[str, Any]:
    return {"route": [{"destination": {"host": "httpbin", "subset": version}}], **more}


def test_a_request_is_tried_again_as_often_as_the_server_counts(tasks: Tasks) -> None:
    tasks.virtual_service(to("v1", retries={"attempts": 3, "retryOn": "5xx", "perTryTimeout": "2s"}))
    before = tasks.logged("httpbin", "/status/503")
    assert tasks.curl("/status/503") == 503
    eventually(lambda: tasks.logged("httpbin", "/status/503") - before == 4, "the server has seen four attempts")


def test_a_mirrored_request_is_seen_twice_and_answered_once(tasks: Tasks) -> None:
    mirrored = {"host": "httpbin", "subset": "v2"}
    tasks.virtual_service(to("v1", mirror=mirrored, mirrorPercentage={"value": 100.0}))
    assert [tasks.curl("/anything/mirror") for _ in range(3)] == [200] * 3
    eventually(lambda: tasks.logged("httpbin-v2", "/anything/mirror") == 3, "the second version has seen all of them")
    assert tasks.logged("httpbin", "/anything/mirror") == 3


def test_a_circuit_breaks_at_its_limit(tasks: Tasks) -> None:
    tasks.virtual_service(to("v1"))
    limits = {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1, "maxRequestsPerConnection": 1}}
    policy = {"connectionPool": limits}
    subsets = [{"name": "v1", "labels": {"version": "v1"}}]
    tasks.put(
        "DestinationRule", "networking.istio.io/v1", "versions", host="httpbin", trafficPolicy=policy, subsets=subsets
    )
    load = ("fortio", "load", "-quiet", "-json=-", "-c=3", "-qps=0", "-n=60", f"{HTTPBIN}/delay/0.05")
    text = tasks.mesh.lab.run("fortio", *load, namespace=NS)
    codes = json.loads(text[text.index("{") :])["RetCodes"]
    assert set(codes) == {"200", "503"}, codes
    assert tasks.waypoint_stat("httpbin.*upstream_rq_pending_overflow") == codes["503"]
    versions = [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")]
    tasks.put("DestinationRule", "networking.istio.io/v1", "versions", host="httpbin", subsets=versions)


def test_a_token_is_demanded_and_verified(tasks: Tasks) -> None:
    issuer, stranger = TokenIssuer(), TokenIssuer()
    rule = {"issuer": ISSUER, "jwks": issuer.key_set}
    tasks.put("RequestAuthentication", "security.istio.io/v1", targetRefs=TARGET, jwtRules=[rule])
    allowed = {"from": [{"source": {"requestPrincipals": [f"{ISSUER}/alice"]}}]}
    tasks.put("AuthorizationPolicy", "security.istio.io/v1", targetRefs=TARGET, rules=[allowed])

    def status(token: str) -> int:
        return tasks.curl("/get", *(("-H", f"authorization: Bearer {token}") if token else ()))

    assert status("") == 403
    assert status(issuer.token({})) == 200
    assert status(issuer.token({"sub": "bob"})) == 403
    assert status(stranger.token({})) == 401
    tasks.remove("requestauthentication", "authorizationpolicy")


def test_opa_decides_where_a_policy_says_so(tasks: Tasks) -> None:
    mesh = tasks.mesh
    held = mesh.configuration
    policy = manifests.config_map("policy", {"policy.rego": POLICY})
    opa = _program("opa", program_images.OPA, "opa", f":{PORT}", "/policy/policy.rego", volume="policy")
    mesh.lab.apply(policy, manifests.service("opa", {"grpc": PORT}), opa, namespace=NS)
    mesh.lab.rolled_out("opa", namespace=NS)
    provider = {"name": "opa", "envoyExtAuthzGrpc": {"service": f"opa.{NS}.svc.cluster.local", "port": PORT}}
    mesh.configure(yaml.safe_dump(yaml.safe_load(held) | {"extensionProviders": [provider]}))
    try:
        asked = {"targetRefs": TARGET, "action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}]}
        tasks.put("AuthorizationPolicy", "security.istio.io/v1", **asked)
        eventually(lambda: tasks.curl("/public/a") == 404, "OPA lets it through to httpbin, which has no such page")
        assert tasks.curl("/get") == 418, "OPA refuses with the status of its policy"
    finally:
        tasks.remove("authorizationpolicy")
        mesh.configure(held)
    eventually(lambda: tasks.curl("/get") == 200, "nobody decides any more")


def test_a_pod_that_fails_is_ejected(tasks: Tasks) -> None:
    lab = tasks.mesh.lab
    tasks.remove("virtualservice")
    failing = ("fortio", "server", "-http-port=8080", "-grpc-port=disabled", "-echo-server-default-params=status=503")
    bad = json.loads(_program("bad", images.FORTIO, *failing))
    bad["spec"]["template"]["metadata"]["labels"]["app"] = "httpbin"
    bad["spec"]["selector"]["matchLabels"] = {"failing": "true"}
    bad["spec"]["template"]["metadata"]["labels"]["failing"] = "true"
    # With outlier detection near endpoints are preferred: elsewhere it would get no request.
    waypoint = lab.resource("pods", "-n", NS, "-l", f"{names.GATEWAY_NAME_LABEL}=waypoint")["items"][0]
    bad["spec"]["template"]["spec"]["nodeName"] = waypoint["spec"]["nodeName"]
    ejection = {"consecutive5xxErrors": 2, "interval": "1s", "baseEjectionTime": "120s", "maxEjectionPercent": 100}
    policy = {"outlierDetection": ejection}
    tasks.put("DestinationRule", "networking.istio.io/v1", "versions", host="httpbin", trafficPolicy=policy)
    lab.apply(json.dumps(bad), namespace=NS)
    lab.rolled_out("bad", namespace=NS)
    try:
        eventually(lambda: tasks.curl("/get") == 503, "the pod that fails gets requests")
        eventually(lambda: [tasks.curl("/get") for _ in range(10)] == [200] * 10, "it gets none any more")
        assert tasks.waypoint_stat("httpbin.*ejections_active") == 1
    finally:
        lab.kubectl("delete", "deployment", "bad", "-n", NS, "--wait")


def test_equal_headers_lead_to_one_pod(tasks: Tasks) -> None:
    tasks.remove("virtualservice")
    policy = {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}
    tasks.put("DestinationRule", "networking.istio.io/v1", "versions", host="httpbin", trafficPolicy=policy)
    for user in ("alice", "bob", "carol"):
        assert {tasks.curl(f"/anything/{user}", "-H", f"x-user: {user}") for _ in range(6)} == {200}

    def counted() -> list[set[int]]:
        pods = ("httpbin", "httpbin-v2")
        return [{tasks.logged(pod, f"/anything/{user}") for pod in pods} for user in ("alice", "bob", "carol")]

    eventually(lambda: counted() == [{0, 6}] * 3, "each user is at one pod")


def test_requests_stay_in_the_waypoints_zone_until_nothing_is_left_there(tasks: Tasks) -> None:
    lab, policy = tasks.mesh.lab, {"outlierDetection": {"consecutive5xxErrors": 5}}
    for name, node in (("httpbin", "node1"), ("httpbin-v2", "node2")):
        pinned = {"spec": {"template": {"spec": {"nodeName": node}}}}
        lab.kubectl("patch", "deployment", name, "-n", NS, "-p", json.dumps(pinned))
    lab.rolled_out("httpbin", "httpbin-v2", namespace=NS)
    tasks.put("DestinationRule", "networking.istio.io/v1", "versions", host="httpbin", trafficPolicy=policy)
    waypoint = lab.resource("pods", "-n", NS, "-l", f"{names.GATEWAY_NAME_LABEL}=waypoint")["items"][0]
    near, far = ("httpbin", "httpbin-v2")[:: 1 if waypoint["spec"]["nodeName"] == "node1" else -1]

    def share(path: str) -> tuple[int, int]:
        assert {tasks.curl(f"/anything/{path}") for _ in range(10)} == {200}
        return tasks.logged(near, f"/anything/{path} "), tasks.logged(far, f"/anything/{path} ")

    number = iter(range(100))
    eventually(lambda: share(f"near{next(number)}") == (10, 0), "all are answered in the waypoint's zone", within_s=30)
    lab.kubectl("scale", "-n", NS, f"deploy/{near}", "--replicas=0")
    eventually(lambda: lab.run("curl", "curl", "-sS", "-m", "5", f"{HTTPBIN}/get", namespace=NS, check=False), "served")
    eventually(
        lambda: tasks.curl("/anything/other") == 200 and tasks.logged(far, "/anything/other") > 0, "from the other"
    )
    lab.kubectl("scale", "-n", NS, f"deploy/{near}", "--replicas=1")
    lab.rolled_out(near, namespace=NS)


def test_tls_is_spoken_to_a_server_outside_of_the_mesh(tasks: Tasks) -> None:
    lab, authority = tasks.mesh.lab, TestAuthority()
    chain, key = authority.issue_for_hosts("secure.example")
    tasks.mesh.namespace(OUTSIDE)
    files = {"tls.crt": chain.decode(), "tls.key": key.decode()}
    lab.apply(manifests.config_map("tls", files), namespace=OUTSIDE)
    serve = ("fortio", "server", "-http-port=8443", "-cert=/tls/tls.crt", "-key=/tls/tls.key", "-grpc-port=disabled")
    lab.apply(_program("secure", images.FORTIO, *serve, volume="tls"), namespace=OUTSIDE)
    lab.rolled_out("secure", namespace=OUTSIDE)
    address = tasks.mesh.pod(OUTSIDE, "secure")["status"]["podIP"]
    port = {"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8443}
    host = {"hosts": ["secure.example"], "ports": [port], "resolution": "STATIC", "endpoints": [{"address": address}]}
    lab.apply(
        manifests.item("ServiceEntry", "networking.istio.io/v1", "secure", location="MESH_EXTERNAL", **host),
        namespace=NS,
    )
    url = ("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://secure.example/")

    def status() -> str:
        return lab.run("curl", *url, namespace=NS, check=False)

    eventually(lambda: status() == "400", "plain text is no answer of a TLS server's")
    lab.apply(manifests.config_map("roots", {"ca.crt": authority.roots.decode()}), namespace=NS)
    target = [{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "secure"}]
    roots = [{"group": "", "kind": "ConfigMap", "name": "roots"}]
    for name, expected in (("secure.example", "200"), ("other.example", "503")):
        verify = {"hostname": name, "caCertificateRefs": roots}
        tasks.put("BackendTLSPolicy", "gateway.networking.k8s.io/v1", "secure", targetRefs=target, validation=verify)
        eventually(lambda expected=expected: status() == expected, f"a certificate for {name} is demanded")
    lab.kubectl("delete", "namespace", OUTSIDE, "--wait=false")


def test_tcp_connections_are_divided_by_weights(tasks: Tasks) -> None:
    versions = [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")]
    tasks.put("DestinationRule", "networking.istio.io/v1", "tcp-echo", host="tcp-echo", subsets=versions)
    shares = {"v1": 80, "v2": 20}
    route = [{"destination": {"host": "tcp-echo", "subset": v}, "weight": share} for v, share in shares.items()]
    tasks.put("VirtualService", "networking.istio.io/v1", "tcp-echo", hosts=["tcp-echo"], tcp=[{"route": route}])
    script = (
        "for i in $(seq 200); do printf 'x\\n' | nc -q 1 -w 3 tcp-echo 9000 & [ $((i % 20)) = 0 ] && wait; done; wait"
    )
    found = Counter(re.findall("one|two", tasks.mesh.lab.run("curl", "sh", "-c", script, namespace=NS)))
    assert found.total() == 200
    assert 12 <= found["two"] <= 72, f"five standard deviations around 40: {found}"
