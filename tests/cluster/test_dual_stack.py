"""A lab with IPv4 and IPv6, beside the session's lab."""

import subprocess
from collections.abc import Iterator

import pytest

from meshlab import addons, images, lab
from meshlab.progress import Progress
from tests.cluster.test_lab import SAMPLES, WEB
from tests.support.lab import Lab, eventually, running

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def dual() -> Iterator[Lab]:
    with running("test-dual", nodes=2, dual_stack=True, extra=[images.samples]) as found:
        yield found


def test_pods_and_services_have_both_families_and_labs_do_not_meet(cluster: Lab, dual: Lab) -> None:
    dual.apply(
        WEB.replace(
            "  selector: {app: web}\n  ports", "  ipFamilyPolicy: RequireDualStack\n  selector: {app: web}\n  ports"
        )
    )
    dual.apply(SAMPLES / "curl" / "curl.yaml")
    dual.rolled_out("web", "curl")
    pods = [
        address["ip"] for pod in dual.resource("pods", "-l", "app=web")["items"] for address in pod["status"]["podIPs"]
    ]
    services = dual.resource("service", "web")["spec"]["clusterIPs"]
    assert len(pods) == 4
    assert len(services) == 2
    for address, port in [*((pod, 8080) for pod in pods), *((service, 80) for service in services)]:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{port}/ip"
        eventually(lambda url=url: "origin" in dual.run("curl", "curl", "-gs", "-m5", url, check=False), url)
    assert {item["metadata"]["name"] for item in cluster.resource("nodes")["items"]} == {"node1", "node2"}
    assert lab.existing("test-dual").slot != lab.existing(cluster.name).slot


def test_this_computer_reaches_services_of_type_load_balancer_by_both_families(dual: Lab) -> None:
    lab.add(dual.name, "metallb", addons.named("metallb"), progress=Progress())
    dual.apply(
        WEB.replace(
            "  selector: {app: web}\n  ports",
            "  type: LoadBalancer\n  ipFamilyPolicy: RequireDualStack\n  selector: {app: web}\n  ports",
        )
    )
    dual.rolled_out("web")

    def given() -> list[str]:
        status = dual.resource("service", "web")["status"]["loadBalancer"]
        return [each["ip"] for each in status.get("ingress", [])]

    eventually(lambda: len(given()) == 2, "an address of each family")
    for address in given():
        url = f"http://[{address}]/ip" if ":" in address else f"http://{address}/ip"
        argv = ["curl", "-gs", "-m5", url]
        answer = lambda argv=argv: subprocess.run(argv, capture_output=True, text=True, check=False).stdout  # noqa: E731
        eventually(lambda answer=answer: "origin" in answer(), url)
