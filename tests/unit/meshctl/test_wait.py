"""``culvert wait``: when an object counts as processed, and when enough proxies have it."""

from typing import Any

import pytest
import typer

from meshapi import names
from meshctl import wait
from meshctl.session import CommandError
from meshctl.synchrony import Proxy, State
from meshkit.kube import Kind, kinds

Json = dict[str, Any]


def condition(status: str = "True", generation: int = 3, reason: str = "Accepted", message: str = "") -> Json:
    return {"type": "WaypointAccepted", "status": status, "observedGeneration": generation, "reason": reason,
            "message": message}  # fmt: skip


def item(*conditions: Json, parents: tuple[Json, ...] = ()) -> Json:
    return {"metadata": {"generation": 3}, "status": {"conditions": list(conditions), "parents": list(parents)}}


def parent(*conditions: Json, controller: str = names.WAYPOINT_CONTROLLER) -> Json:
    return {"controllerName": controller, "conditions": list(conditions)}


@pytest.mark.parametrize(
    "given",
    [
        item(condition()),
        item(condition("False", reason="UnsupportedValue")),
        item(parents=(parent(condition()), parent(condition("False"), controller="example.com/other"))),
        item(parents=(parent(condition(), controller=names.GATEWAY_CONTROLLER),)),
    ],
)
def test_an_object_with_current_conditions_is_processed(given: Json) -> None:
    assert wait.unprocessed(given) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (item(), "the control plane to process generation 3"),
        ({"metadata": {"generation": 3}}, "the control plane to process generation 3"),
        (item(condition(generation=2)), "the control plane to process generation 3"),
        (item(parents=(parent(condition(), controller="example.com/other"),)), "the control plane to process"),
        (item(condition("False", reason="RejectedByProxy", message="bad regex")), "RejectedByProxy: bad regex"),
        (item(condition(), condition("False", reason="AncestorNotBound")), "AncestorNotBound"),
        (item(parents=(parent(condition(), condition("False", reason="WaypointIsNotReady")),)), "WaypointIsNotReady"),
    ],
)
def test_an_object_that_has_no_effect_is_waited_for(given: Json, expected: str) -> None:
    [found] = wait.unprocessed(given)
    assert expected in found


def test_a_newer_generation_can_be_waited_for() -> None:
    assert wait.unprocessed(item(condition()), 4) == ["the control plane to process generation 4"]
    assert wait.unprocessed(item(condition()), 2) == []


def proxies(**states: State) -> list[Proxy]:
    return [Proxy(name, "n", types={"LISTENER": found}) for name, found in states.items()]


def test_all_proxies_count_or_the_chosen_ones_or_a_share() -> None:
    found = proxies(a=State.SYNCED, b=State.STALE, c=State.SYNCED, d=State.NACK)
    assert wait.unsynced(found, (), 1.0) == ["b", "d"]
    assert wait.unsynced(found, (), 0.5) == []
    assert wait.unsynced(found, (), 0.51) == ["b", "d"]
    assert wait.unsynced(found, ("a", "c"), 1.0) == []
    assert wait.unsynced(found, ("a", "b"), 1.0) == ["b"]
    with pytest.raises(CommandError, match="no proxy is called x"):
        wait.unsynced(found, ("x",), 1.0)


@pytest.mark.parametrize("given", ["vs", "VirtualService", "virtualservices", "virtualservice.networking.istio.io"])
def test_kinds_are_named_as_for_kubectl(given: str) -> None:
    assert wait.kind_of(given) is kinds.VIRTUAL_SERVICE


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("gateway", kinds.GATEWAY),
        ("gtw", kinds.GATEWAY),
        ("gateways.gateway.networking.k8s.io", kinds.GATEWAY),
        ("gw", kinds.ISTIO_GATEWAY),
        ("gateway.networking.istio.io", kinds.ISTIO_GATEWAY),
        ("gateways.networking.istio.io", kinds.ISTIO_GATEWAY),
    ],
)
def test_the_two_kinds_of_gateways_are_told_apart_by_their_group(given: str, kind: Kind) -> None:
    assert wait.kind_of(given) is kind


def test_a_kind_without_conditions_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="write one of virtualservices"):
        wait.kind_of("pod")


@pytest.mark.parametrize(("given", "expected"), [("30s", 30.0), ("1m30s", 90.0), ("5", 5.0), ("0.5", 0.5)])
def test_timeouts_are_durations_or_seconds(given: str, expected: float) -> None:
    assert wait.timeout_of(given) == expected


def test_a_timeout_that_is_none_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="soon"):
        wait.timeout_of("soon")
