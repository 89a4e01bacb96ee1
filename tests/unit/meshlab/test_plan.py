"""Addresses, ranges and routes of a lab."""

import itertools
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from meshlab.errors import LabError
from meshlab.plan import plan, plan_on_hosts


def test_two_nodes() -> None:
    lab = plan("lab", slot=3, nodes=2, dual_stack=False)
    assert lab.bridge == "culvert3"
    assert lab.server == "https://198.18.3.2:6443"
    assert [machine.name for machine in lab.machines] == ["control", "node1", "node2"]
    assert [str(node.address) for node in lab.nodes] == ["198.18.3.11", "198.18.3.12"]
    assert [node.zone for node in lab.nodes] == ["lab-1", "lab-2"]
    assert [str(address) for address in lab.dns] == ["10.96.0.10"]
    assert lab.nodes[0].routes == (
        (ip_network("10.244.2.0/24"), ip_address("198.18.3.12")),
        (ip_network("10.96.0.0/16"), lab.control.address),
    )


def test_the_control_plane_reaches_pods_on_their_nodes_and_services_through_the_first() -> None:
    lab = plan("lab", slot=0, nodes=2, dual_stack=False)
    assert {str(network): str(gateway) for network, gateway in lab.control.routes} == {
        "10.244.1.0/24": "198.18.0.11",
        "10.244.2.0/24": "198.18.0.12",
        "10.96.0.0/16": "198.18.0.11",
    }


def test_dual_stack_gives_everything_a_second_address_of_the_other_family() -> None:
    lab = plan("lab", slot=0, nodes=2, dual_stack=True)
    for addresses in (lab.dns, lab.api_service, *(machine.addresses for machine in lab.machines)):
        assert [address.version for address in addresses] == [4, 6]
    for node in lab.nodes:
        assert [network.version for network in node.pods] == [4, 6]
        assert all(network.version == gateway.version for network, gateway in node.routes)


def test_ranges_do_not_overlap_and_lie_inside_the_clusters() -> None:
    lab = plan("lab", slot=0, nodes=50, dual_stack=True)
    ranges = [network for node in lab.nodes for network in node.pods]
    for one, other in itertools.combinations([*ranges, *lab.services], 2):
        assert one.version != other.version or not one.overlaps(other), f"{one} and {other}"
    for network in ranges:
        whole = next(each for each in lab.pods if each.version == network.version)
        assert network.subnet_of(whole)


def test_labs_side_by_side_share_no_link_and_no_network() -> None:
    one, other = (plan("lab", slot=slot, nodes=50, dual_stack=True) for slot in (0, 63))
    assert one.bridge != other.bridge
    for mine, theirs in zip(one.bridge_interfaces, other.bridge_interfaces, strict=True):
        assert not mine.network.overlaps(theirs.network)


def test_link_names_fit_the_kernels_fifteen_characters() -> None:
    lab = plan("lab", slot=63, nodes=50, dual_stack=False)
    assert len(f"{lab.bridge}m{len(lab.machines) - 1}") <= 15


@pytest.mark.parametrize(
    ("name", "nodes"), [("Lab", 2), ("", 2), ("a.b", 2), ("x" * 21, 2), ("lab", 0), ("lab", 51), ("tasks", 2)]
)
def test_invalid_options_are_refused_by_name(name: str, nodes: int) -> None:
    with pytest.raises(LabError, match=r"^--(name|nodes): .*; use "):
        plan(name, slot=0, nodes=nodes, dual_stack=False)


HOSTS = [IPv4Address("192.168.56.11"), IPv4Address("192.168.56.12")]


def test_on_hosts_every_machine_is_a_node_and_the_first_has_the_control_plane() -> None:
    lab = plan_on_hosts("lab", slot=0, hosts=HOSTS)
    assert lab.server == "https://192.168.56.11:6443"
    assert [(node.name, node.address, node.zone) for node in lab.nodes] == [
        ("node1", HOSTS[0], "lab-1"),
        ("node2", HOSTS[1], "lab-2"),
    ]
    assert [node.routes for node in lab.nodes] == [
        ((ip_network("10.244.2.0/24"), HOSTS[1]),),
        ((ip_network("10.244.1.0/24"), HOSTS[0]),),
    ]
    assert lab.control.routes == ()


def test_a_host_that_is_named_twice_is_refused() -> None:
    with pytest.raises(LabError, match="--host: an address is given twice"):
        plan_on_hosts("lab", slot=0, hosts=[HOSTS[0], HOSTS[0]])
