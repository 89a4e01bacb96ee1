"""What a plan looks like in nftables' language. ``GOLDEN=write pytest`` makes the files anew; read the difference."""

import os
from pathlib import Path

import pytest

from nodeagent.capture import nftables_rules as rules
from nodeagent.capture.plan import Mode, PodPlan, plan_pod

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "nftables"
SCENARIOS = {
    "capture": rules.pod_rules(PodPlan()),
    "gateway": rules.pod_rules(plan_pod({"ambient.istio.io/bypass-inbound-capture": "true"})),
    "drain": rules.pod_rules(PodPlan(mode=Mode.DRAIN)),
    "none": rules.pod_rules(PodPlan(mode=Mode.NONE)),
    "probes": rules.probe_rules(["10.0.0.2", "fd00::2", "10.0.0.1"]),
    "capture-fresh": rules.pod_rules(PodPlan(), fresh=True),
    "probes-change": rules.probe_changes(["10.0.0.3", "fd00::3"], ["10.0.0.1"]),
    "probes-empty": rules.probe_rules([]),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rules_are_as_agreed(scenario: str) -> None:
    file = GOLDEN / f"{scenario}.nft"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(SCENARIOS[scenario])
    assert SCENARIOS[scenario] == file.read_text()


def test_nothing_new_is_redirected_while_draining() -> None:
    assert "redirect" not in SCENARIOS["drain"]
    assert "type nat hook" in SCENARIOS["drain"], "the last NAT chain must not go while connections stand on it"


def test_only_first_packets_are_redirected() -> None:
    redirects = [line for line in SCENARIOS["capture"].splitlines() if "redirect" in line]
    assert redirects
    assert all("tcp flags & (fin | syn | rst | ack) == syn" in line for line in redirects)
