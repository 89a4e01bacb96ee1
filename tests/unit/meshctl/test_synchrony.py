"""Which proxies are in sync, read from the control plane's page."""

from typing import Any

import pytest

from meshapi import names
from meshctl import synchrony
from meshctl.synchrony import State

NODE_ID = "ztunnel~10.0.0.9~ztunnel-a.istio-system~istio-system.svc.cluster.local"
GOOD = {"sent": 3, "acked": 3, "nacked": 0, "error": "", "refused": {}}
NAME = "ztunnel-a.istio-system"


def stream(**types: dict[str, Any]) -> dict[str, Any]:
    by_url = {"addresses": names.ADDRESS_TYPE, "policies": names.AUTHORIZATION_TYPE}
    return {
        "proxy": NODE_ID,
        "node": "n1",
        "version": "1.0",
        "types": {by_url[title]: item for title, item in types.items()},
    }


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (GOOD, State.SYNCED),
        ({**GOOD, "sent": 4}, State.STALE),
        ({**GOOD, "sent": 0, "acked": 0}, State.NOT_SENT),
        ({**GOOD, "sent": 4, "nacked": 4, "error": "bad"}, State.NACK),
        ({**GOOD, "sent": 5, "acked": 5, "nacked": 4, "error": "bad"}, State.SYNCED),
        ({**GOOD, "sent": 5, "acked": 5, "nacked": 4, "error": "x: bad", "refused": {"x": "x: bad"}}, State.NACK),
    ],
)
def test_state_of_a_type(item: dict[str, Any], expected: State) -> None:
    assert synchrony.state(item) is expected


def test_every_ztunnel_is_listed_and_a_refusal_has_its_reason() -> None:
    refusing = {**GOOD, "refused": {"shop/p": "shop/p: rules[0]"}}
    found = synchrony.proxies(
        {"istiod-1": [stream(addresses=GOOD, policies=refusing)], "istiod-2": []},
        [(NAME, "n1"), ("ztunnel-b.istio-system", "n2")],
    )
    assert [one.is_synced for one in found] == [False, False]
    assert synchrony.reasons(found) == [f"{NAME} refused policies: shop/p: rules[0]"]
    lines = [line.split("  ") for line in str(synchrony.table(found)).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["NAME", "NODE", "ADDRESSES", "POLICIES", "CONTROL PLANE", "VERSION"],
        [NAME, "n1", "SYNCED", "NACK", "istiod-1", "1.0"],
        ["ztunnel-b.istio-system", "n2", "NOT CONNECTED", "NOT CONNECTED", "-", "-"],
    ]


def test_a_proxy_that_has_everything_is_synced() -> None:
    (found,) = synchrony.proxies({"istiod-1": [stream(addresses=GOOD, policies=GOOD)]}, [(NAME, "n1")])
    assert found.is_synced
    assert found.document["types"] == {"addresses": "SYNCED", "policies": "SYNCED"}
