"""``culvert install``: Istio's profiles among the values that are given."""

import pytest

from meshctl import edge, install
from meshctl.session import CommandError


@pytest.mark.parametrize("profile", ["default", "minimal", "ambient"])
def test_a_profile_without_more_parts_is_what_is_installed_anyway(profile: str) -> None:
    given = ["image.tag=1", f"profile={profile}", "waypoints.enabled=true"]
    assert install.without_profile(given) == ("image.tag=1", "waypoints.enabled=true")


@pytest.mark.parametrize("profile", ["openshift", ""])
def test_a_profile_with_parts_that_are_missing_is_refused(profile: str) -> None:
    with pytest.raises(CommandError, match="use one of ambient, default, demo, minimal"):
        install.without_profile([f"profile={profile}"])


@pytest.mark.parametrize(
    ("sets", "has"),
    [
        (["profile=demo"], True),
        (["profile=demo", "image.tag=1"], True),
        (["profile=demo", "profile=ambient"], False),
        (["image.tag=demo"], False),
    ],
)
def test_the_demo_profile_has_gateways_besides(sets: list[str], has: bool) -> None:
    assert install.has_gateways(sets) is has
    assert "profile=demo" not in install.without_profile(sets)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        ({}, "0 of 2 pods are ready"),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 1}, "1 of 2 pods are ready"),
        ({"observedGeneration": 0, "updatedReplicas": 2, "availableReplicas": 2}, "0 of 2 pods are ready"),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2}, ""),
    ],
)
def test_a_gateway_is_ready_when_all_its_pods_are(status: dict[str, int], fault: str) -> None:
    item = {"metadata": {"name": "g", "generation": 1}, "spec": {"replicas": 2}, "status": status}
    assert edge.fault_of(item) == fault
    assert edge.fault_of(None) == "not found"
