"""One request to bookinfo leaves one trace in Zipkin, with a span for each end of each call."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from meshlab import programs
from tests.support import manifests
from tests.support.lab import ROOT, eventually
from tests.support.mesh import Mesh

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # with the build

NS = "tracing"
PORT = 9411
TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
CALLER = "e457b5a2e4d86bd1"
PAGE = "http://productpage:9080/productpage"
Tree = dict[str, Any]


@contextmanager
def zipkin(mesh: Mesh) -> Iterator[str]:
    """Run Zipkin outside of the mesh, as a Service of the namespace; yields its address."""
    options = ("-Xmx256m", "-XX:TieredStopAtLevel=1")  # what starts soonest, not what is fastest later
    program = ["java", *options, "-jar", str(programs.zipkin(print) / "zipkin.jar")]
    with mesh.outside(program, PORT, within_s=90) as address:
        port = {"name": "http", "port": PORT}
        mesh.lab.apply(manifests.item("Service", "v1", "zipkin", ports=[port]), namespace=NS)
        labels = {"kubernetes.io/service-name": "zipkin"}
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "zipkin", "labels": labels},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [address]}],
        }
        mesh.lab.apply(json.dumps(endpoints), namespace=NS)
        yield address


def spans(address: str) -> list[dict[str, Any]]:
    """The spans of the trace that have arrived."""
    try:
        with urllib.request.urlopen(f"http://{address}:{PORT}/api/v2/trace/{TRACE}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found
    except urllib.error.HTTPError:
        return []


def tree(found: list[dict[str, Any]], parent: str) -> Tree:
    """What a span has called, by kind and service."""
    below = [one for one in found if one.get("parentId") == parent]
    return {f"{one['kind']} {one['name'].partition('.')[0]}": tree(found, one["id"]) for one in below}


def test_a_page_is_one_trace(mesh: Mesh) -> None:
    held = mesh.configuration
    mesh.namespace(NS, enrolled=True)
    provider = {"name": "zipkin", "zipkin": {"service": f"zipkin.{NS}.svc.cluster.local", "port": PORT}}
    settings = {"extensionProviders": [provider], "defaultProviders": {"tracing": ["zipkin"]}}
    mesh.lab.apply(ROOT / "samples/bookinfo/platform/kube/bookinfo.yaml", ROOT / "samples/curl/curl.yaml", namespace=NS)
    subsets = [{"name": "v2", "labels": {"version": "v2"}}]
    second = [{"route": [{"destination": {"host": "reviews", "subset": "v2"}}]}]
    try:
        with zipkin(mesh) as address:
            mesh.configure(yaml.safe_dump(yaml.safe_load(held) | settings))
            names = ("productpage-v1", "details-v1", "ratings-v1", "reviews-v2", "curl")
            mesh.lab.rolled_out(*names, namespace=NS, timeout_s=120)
            mesh.waypoint(NS)
            for kind, spec in (("DestinationRule", {"subsets": subsets, "host": "reviews"}),
                               ("VirtualService", {"hosts": ["reviews"], "http": second})):  # fmt: skip
                mesh.lab.apply(manifests.item(kind, "networking.istio.io/v1", "reviews", **spec), namespace=NS)
                mesh.in_force(kind, "reviews", NS)
            curl = ("curl", "-sS", "-m", "15", "-o", "/dev/null", "-w", "%{http_code}", PAGE)
            eventually(lambda: mesh.lab.run("curl", *curl, namespace=NS, check=False) == "200", "the page is there")
            given = {"x-b3-traceid": TRACE, "x-b3-spanid": CALLER, "x-b3-sampled": "1"}
            headers = [word for name, value in given.items() for word in ("-H", f"{name}: {value}")]
            assert mesh.lab.run("curl", *curl, *headers, namespace=NS) == "200"
            eventually(lambda: len(spans(address)) >= 8, "two spans of each of four calls", within_s=30)
            found = spans(address)
    finally:
        mesh.configure(held)
        mesh.lab.kubectl("delete", "namespace", NS, "--wait=false")
    details, ratings = {"SERVER details": {"CLIENT details": {}}}, {"SERVER ratings": {"CLIENT ratings": {}}}
    reviews = {"SERVER reviews": {"CLIENT reviews": ratings}}
    assert tree(found, CALLER) == {"SERVER productpage": {"CLIENT productpage": {**details, **reviews}}}
    assert len(found) == 8
