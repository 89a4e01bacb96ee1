"""A lab with IPv4 and IPv6, beside the session's lab."""

import pytest

from meshlab import images, lab
from tests.cluster.test_lab import SAMPLES, WEB
from tests.support.lab import Lab, eventually, running

pytestmark = pytest.mark.root


def test_pods_and_services_have_both_families_and_labs_do_not_meet(cluster: Lab) -> None:
    with running("test-dual", nodes=2, dual_stack=True, extra=[images.samples]) as dual:
        dual.apply(
            WEB.replace(
                "  selector: {app: web}\n  ports", "  ipFamilyPolicy: RequireDualStack\n  selector: {app: web}\n  ports"
            )
        )
        dual.apply(SAMPLES / "curl" / "curl.yaml")
        dual.rolled_out("web", "curl")
        pods = [
            address["ip"]
            for pod in dual.resource("pods", "-l", "app=web")["items"]
            for address in pod["status"]["podIPs"]
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
