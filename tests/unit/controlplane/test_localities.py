"""Which endpoints a proxy prefers, by where both are."""

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2

from controlplane.envoy import endpoints, nearness
from controlplane.routing import localities
from controlplane.routing.destinations import Policy
from controlplane.routing.localities import LOCALITY_KEYS, Nearness
from controlplane.routing.services import Endpoint, Locality
from meshapi import names
from meshapi.resources.destination_rule import LoadBalancer, LocalityLbSetting, OutlierDetection

PROXY = dict(zip(LOCALITY_KEYS, ("r1", "z1", "s1"), strict=True))


@pytest.mark.parametrize(
    ("pattern", "place", "expected"),
    [
        ("*", "r1/z1/s1", True),
        ("r1", "r1/z1/s1", True),
        ("r1/*", "r1/z1/s1", True),
        ("r1/z1/*", "r1/z1/s1", True),
        ("r1/z1/s1", "r1/z1/s1", True),
        ("r1/z1", "r1/z1/", True),
        ("r1/z2", "r1/z1/s1", False),
        ("r2/*", "r1/z1/s1", False),
        ("r1/z1/s1", "r1", False),
        ("r", "r1/z1/s1", False),
    ],
)
def test_patterns_of_localities(pattern: str, place: str, *, expected: bool) -> None:
    assert localities.matches(pattern, place) is expected


@pytest.mark.parametrize(
    ("endpoint", "distance"),
    [
        (("r1", "z1", "s1"), 0),
        (("r1", "z1", "s2"), 1),
        (("r1", "z2", "s1"), 2),  # another zone's subzone of the same name is no nearer
        (("r2", "z1", "s1"), 3),
        (("r3", "z1", "s1"), 4),
        (("", "", ""), 4),
    ],
)
def test_the_region_that_takes_over_is_nearer_than_others(endpoint: tuple[str, ...], distance: int) -> None:
    assert Nearness(LOCALITY_KEYS, failover=(("r1", "r2"),)).distance(PROXY, endpoint) == distance


def setting(**fields: object) -> Policy:
    balancer = LoadBalancer(locality_lb_setting=LocalityLbSetting.model_validate(fields))
    return Policy(load_balancer=balancer, outlier_detection=OutlierDetection())


def test_what_a_rule_says_goes_before_what_the_service_wants() -> None:
    assert localities.of(setting(enabled=False), "PreferClose") is None
    assert localities.of(setting(failoverPriority=["a"]), "PreferClose") == Nearness(("a",))
    assert localities.of(setting(failover=[{"from": "r1", "to": "r2"}]), "") == Nearness(
        LOCALITY_KEYS, failover=(("r1", "r2"),)
    )
    closest = localities.of(Policy(), "PreferClose")
    assert closest is not None
    assert closest.keys == (names.NETWORK_LABEL, names.REGION_LABEL, names.ZONE_LABEL)
    assert localities.of(Policy(), "") is None
    assert localities.of(Policy(outlier_detection=OutlierDetection()), "") == Nearness(LOCALITY_KEYS)


def arranged(preference: Nearness, *places: str) -> list[tuple[str, int, int, int]]:
    """Locality, priority, weight and number of endpoints of each group."""
    found = [
        Endpoint(f"10.0.0.{number}", ((80, 8080),), locality=Locality(*place.split("/")))
        for number, place in enumerate(places)
    ]
    made = endpoints.of_cluster("c", found, 80, preference=preference)
    again = endpoint_pb2.ClusterLoadAssignment.FromString(made.SerializeToString())
    nearness.arranged(again, PROXY)
    assert nearness.MARKER not in again.SerializeToString()
    return [
        (
            "/".join((one.locality.region, one.locality.zone)),
            one.priority,
            one.load_balancing_weight.value,
            len(one.lb_endpoints),
        )
        for one in again.endpoints
    ]


def test_priorities_have_no_gaps() -> None:
    found = arranged(Nearness(LOCALITY_KEYS), "r1/z1/s1", "r2/z1/s1", "r3/z1/s1", "r3/z1/s1")
    assert found == [("r1/z1", 0, 1, 1), ("r2/z1", 1, 1, 1), ("r3/z1", 1, 2, 2)]


def test_a_share_is_divided_by_weight_and_the_most_specific_pattern_counts() -> None:
    preference = Nearness(distribute=(("r1/*", (("r1/*", 20), ("r1/z1/*", 80), ("r2/*", 0))),))
    found = arranged(preference, "r1/z1/s1", "r1/z2/s1", "r1/z3/s1", "r1/z3/s1", "r1/z3/s1", "r2/z1/s1", "r3/z1/s1")
    assert found == [("r1/z1", 0, 80_000, 1), ("r1/z2", 0, 5_000, 1), ("r1/z3", 0, 15_000, 3)]


def test_a_proxy_elsewhere_has_no_shares() -> None:
    preference = Nearness(distribute=(("r9/*", (("r1/*", 100),)),))
    assert arranged(preference, "r1/z1/s1", "r2/z1/s1") == [("r1/z1", 0, 1, 1), ("r2/z1", 0, 1, 1)]
