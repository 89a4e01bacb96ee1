"""What the lab expects of an addon."""

import json
from ipaddress import IPv4Address

import pytest

from meshlab.addons import ADDONS, Addon, metallb, prometheus
from meshlab.api import resource_path
from meshlab.errors import LabError
from meshlab.plan import plan, plan_on_hosts

LAB = plan("x", slot=3, nodes=2, dual_stack=True)


@pytest.mark.parametrize(("name", "addon"), ADDONS.items())
def test_an_addon_has_its_workloads_and_a_service_of_its_name(name: str, addon: Addon) -> None:
    paths = {resource_path(one): one for one in addon.resources(LAB)}
    for workload, kind in addon.workloads.items():
        assert f"/apis/apps/v1/namespaces/{addon.namespace}/{kind.value[0]}/{workload}" in paths
    if not addon.port:
        assert not [one for one in paths.values() if one["kind"] == "Service"]
        return
    service = paths[f"/api/v1/namespaces/{addon.namespace}/services/{name}"]
    assert [port["port"] for port in service["spec"]["ports"]] == [addon.port]
    assert next(iter(paths)) == f"/api/v1/namespaces/{addon.namespace}", "its namespace comes first"


def test_a_changed_configuration_changes_the_pod_template(monkeypatch: pytest.MonkeyPatch) -> None:
    def annotations() -> dict[str, str]:
        [deployment] = [one for one in prometheus.resources() if one["kind"] == "Deployment"]
        found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
        return found

    before = annotations()
    monkeypatch.setattr(prometheus, "_CONFIG", json.dumps({}))
    assert annotations() != before


def test_addresses_of_load_balancers_are_on_the_machines_link_and_no_machines_own() -> None:
    assert [str(network) for network in LAB.load_balancers] == ["198.18.3.128/25", "fd18:3::1:0/112"]
    for machine in plan("x", slot=3, nodes=50, dual_stack=True).machines:
        for interface in machine.interfaces:
            [range_] = [one for one in LAB.load_balancers if one.version == interface.version]
            assert range_.network_address in interface.network
            assert range_.broadcast_address in interface.network
            assert interface.ip not in range_


def test_a_lab_on_hosts_has_no_addresses_for_load_balancers() -> None:
    lab = plan_on_hosts("x", slot=0, hosts=[IPv4Address("10.0.0.1")])
    with pytest.raises(LabError, match="a lab on hosts has no addresses to give"):
        list(metallb.resources(lab))
