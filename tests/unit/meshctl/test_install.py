"""``culvert install``: Istio's profiles among the values that are given."""

import pytest

from meshctl import install
from meshctl.session import CommandError


@pytest.mark.parametrize("profile", ["default", "minimal", "ambient"])
def test_a_profile_without_more_parts_is_what_is_installed_anyway(profile: str) -> None:
    given = ["image.tag=1", f"profile={profile}", "waypoints.enabled=true"]
    assert install.without_profile(given) == ("image.tag=1", "waypoints.enabled=true")


@pytest.mark.parametrize("profile", ["demo", "openshift", ""])
def test_a_profile_with_parts_that_are_missing_is_refused(profile: str) -> None:
    with pytest.raises(CommandError, match="use one of ambient, default, minimal, and a Gateway of class istio"):
        install.without_profile([f"profile={profile}"])
