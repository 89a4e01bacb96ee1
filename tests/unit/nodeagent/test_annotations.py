"""Annotations become plans; an invalid value is reported, and captures more rather than less."""

from ipaddress import ip_network

import pytest

from nodeagent.capture.annotations import plan_pod
from nodeagent.capture.plan import Inbound, Outbound, PodPlan

SIDECAR = "traffic.sidecar.istio.io/"


def test_without_annotations_everything_is_captured() -> None:
    assert plan_pod({}).plan == PodPlan()
    assert plan_pod({}, dns=True).plan == PodPlan(dns=True)


@pytest.mark.parametrize(("value", "dns"), [("true", True), ("T", True), ("1", True), ("false", False), ("0", False)])
def test_the_pods_dns_annotation_overrides_the_mesh_setting(value: str, dns: bool) -> None:
    assert plan_pod({"ambient.istio.io/dns-capture": value}, dns=not dns).plan.dns is dns


def test_ports_ranges_and_interfaces_are_read_as_lists() -> None:
    planned = plan_pod(
        {
            f"{SIDECAR}excludeInboundPorts": " 9100,22 ,9100",
            f"{SIDECAR}includeOutboundIPRanges": "10.1.0.0/16,10.0.0.0/8,fd00::1/64",
            f"{SIDECAR}excludeOutboundIPRanges": "192.0.2.7",
            f"{SIDECAR}excludeInterfaces": "net1, net2",
        }
    )
    assert planned.faults == ()
    assert planned.plan == PodPlan(
        inbound=Inbound(never=(22, 9100)),
        outbound=Outbound(
            never_ranges=(ip_network("192.0.2.7/32"),), ranges=(ip_network("10.0.0.0/8"), ip_network("fd00::/64"))
        ),
        excluded_interfaces=("net1", "net2"),
    )


@pytest.mark.parametrize(("value", "faults"), [("always", 0), (" always ", 0), ("never", 1), ("", 1)])
def test_whatever_the_tunnel_annotation_says_the_tunnel_is_demanded(value: str, faults: int) -> None:
    planned = plan_pod({"culvert.io/tunnel": value})
    assert planned.plan == PodPlan(tunnel_always=True)
    assert [fault.fix for fault in planned.faults] == ["write always, or leave the annotation out"] * faults


LETS_OUT = {
    "ambient.istio.io/dns-capture": "false",
    "istio.io/reroute-virtual-interfaces": "k6t-eth0",
    f"{SIDECAR}includeOutboundPorts": "80",
    f"{SIDECAR}excludeOutboundPorts": "53,3306",
    f"{SIDECAR}includeOutboundIPRanges": "10.0.0.0/8",
    f"{SIDECAR}excludeOutboundIPRanges": "192.0.2.0/24",
    f"{SIDECAR}excludeInterfaces": "net1",
}


@pytest.mark.parametrize("annotation", LETS_OUT)
def test_no_annotation_lets_anything_out_of_a_pod_that_may_reach_only_the_registry(annotation: str) -> None:
    held = PodPlan(dns=True, tunnel_always=True, registry_only=True)
    planned = plan_pod({annotation: LETS_OUT[annotation]}, dns=True, registry_only=True)
    assert (planned.plan, planned.overruled) == (held, (annotation,))


def test_annotations_of_what_comes_in_keep_their_meaning_in_such_a_pod() -> None:
    inbound = {f"{SIDECAR}excludeInboundPorts": "9100", "ambient.istio.io/dns-capture": "true"}
    planned = plan_pod(inbound, registry_only=True)
    assert planned.plan == PodPlan(inbound=Inbound(never=(9100,)), dns=True, tunnel_always=True, registry_only=True)
    assert planned.overruled == ()


def test_a_star_is_everything_and_an_empty_list_nothing() -> None:
    names = (f"{SIDECAR}includeInboundPorts", f"{SIDECAR}includeOutboundIPRanges")
    assert plan_pod(dict.fromkeys(names, "*")).plan == PodPlan()
    nothing = plan_pod(dict.fromkeys(names, "")).plan
    assert nothing == PodPlan(inbound=Inbound(only=()), outbound=Outbound(ranges=()))


@pytest.mark.parametrize(
    ("annotation", "value", "fix"),
    [
        ("ambient.istio.io/bypass-inbound-capture", "yes", "true or false"),
        ("ambient.istio.io/dns-capture", "", "true or false"),
        (f"{SIDECAR}excludeInboundPorts", "80,http", '"http" is not a port'),
        (f"{SIDECAR}excludeInboundPorts", "65536", '"65536" is not a port'),
        (f"{SIDECAR}excludeOutboundPorts", "0", '"0" is not a port'),
        (f"{SIDECAR}excludeOutboundPorts", "²", '"²" is not a port'),
        (f"{SIDECAR}excludeOutboundIPRanges", "10.0.0.0/33", "is not an address range"),
        (f"{SIDECAR}excludeOutboundIPRanges", "0.0.0.0/0", "is every address"),
        (f"{SIDECAR}includeOutboundIPRanges", "10.0.0.0/8;fd00::/8", "is not an address range"),
        (f"{SIDECAR}excludeInterfaces", 'eth0" accept', "is not the name of an interface"),
        ("istio.io/reroute-virtual-interfaces", "a-name-too-long-", "is not the name of an interface"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_and_everything_is_captured(annotation: str, value: str, fix: str) -> None:
    planned = plan_pod({annotation: value})
    assert planned.plan == PodPlan()
    (fault,) = planned.faults
    assert (fault.annotation, fault.value) == (annotation, value)
    assert fix in fault.fix
