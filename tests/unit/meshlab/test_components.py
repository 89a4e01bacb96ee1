"""Command lines and files of Kubernetes' components."""

import json
import tomllib
from typing import Any

import pytest

from meshlab.api import resource_path
from meshlab.components import control, dns, node
from meshlab.machines.machine import Service
from meshlab.plan import LabPlan, plan


@pytest.fixture(params=[False, True], ids=["ipv4", "dual-stack"])
def lab(request: pytest.FixtureRequest) -> LabPlan:
    return plan("lab", slot=0, nodes=2, dual_stack=request.param)


def test_the_api_server_refuses_anonymous_requests(lab: LabPlan) -> None:
    flags = _flags(control.api_server("/bin/kube-apiserver", lab))
    assert flags["--anonymous-auth"] == "false"
    assert flags["--authorization-mode"] == "Node,RBAC"
    assert flags["--enable-admission-plugins"] == "NodeRestriction"
    assert "kubernetes.default.svc" in flags["--api-audiences"].split(",")
    assert flags["--service-account-issuer"] in flags["--api-audiences"].split(",")


def test_the_kubelet_refuses_anonymous_requests(lab: LabPlan) -> None:
    config = _file(lab, "/var/lib/kubelet/config.json")
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authentication"]["webhook"] == {"enabled": True}
    assert config["authorization"] == {"mode": "Webhook"}
    assert config["clusterDNS"] == [str(address) for address in lab.dns]


def test_every_node_has_a_zone_of_its_own(lab: LabPlan) -> None:
    labels = {_flags(node.kubelet("/bin/kubelet", each))["--node-labels"] for each in lab.nodes}
    assert len(labels) == len(lab.nodes)
    assert all("topology.kubernetes.io/region=lab" in each for each in labels)


def test_the_pod_network_gives_addresses_from_the_nodes_ranges(lab: LabPlan) -> None:
    conflist = _file(lab, "/etc/cni/net.d/10-culvert-lab.conflist")
    assert [plugin["type"] for plugin in conflist["plugins"]] == ["ptp", "portmap"]
    subnets = [each[0]["subnet"] for each in conflist["plugins"][0]["ipam"]["ranges"]]
    assert subnets == [str(network) for network in lab.nodes[0].pods]


@pytest.mark.parametrize("may_lower", [True, False])
def test_containerd_does_not_lower_oom_scores_where_it_may_not(lab: LabPlan, may_lower: bool) -> None:
    files = {file.path: file for file in node.files(lab, lab.nodes[0], lower_oom_score=may_lower)}
    config = tomllib.loads(files["/etc/containerd/config.toml"].content.decode())
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is not may_lower
    assert cri["sandbox_image"].startswith("localhost/")


def test_kube_proxy_hides_sources_outside_the_pods_ranges(lab: LabPlan) -> None:
    config = _file(lab, "/etc/kubernetes/kube-proxy.json")
    assert config["clusterCIDR"] == ",".join(str(network) for network in lab.pods)
    assert config["conntrack"]["maxPerCore"] == 0
    assert config["mode"] == "nftables"


def test_the_name_server_has_the_address_that_kubelets_hand_out(lab: LabPlan) -> None:
    service = next(each for each in dns.resources(lab) if each["kind"] == "Service")
    assert service["metadata"]["name"] == "kube-dns"
    assert service["spec"]["clusterIPs"] == [str(address) for address in lab.dns]


def test_resources_are_found_where_kubernetes_keeps_them(lab: LabPlan) -> None:
    paths = [resource_path(each) for each in dns.resources(lab)]
    assert "/api/v1/namespaces/kube-system/configmaps/coredns" in paths
    assert "/apis/apps/v1/namespaces/kube-system/deployments/coredns" in paths
    assert "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:coredns" in paths


def _flags(service: Service) -> dict[str, str]:
    return dict(flag.split("=", 1) for flag in service.argv[1:] if "=" in flag)


def _file(lab: LabPlan, path: str) -> Any:
    files = {file.path: file for file in node.files(lab, lab.nodes[0], lower_oom_score=True)}
    return json.loads(files[path].content)
