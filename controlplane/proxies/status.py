"""The status of a waypoint's Gateway, and of classes. Pure.

Source: Gateway API, ``apis/v1/gateway_types.go`` (conditions and reasons). Addresses stay once they were given: what is
attached to a waypoint whose pods are gone for a moment must not be reached past it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshapi.resources.gateway import AddressType, Gateway, Listener
from meshkit.kube import Json, transitions

_HBONE: Final = "HBONE"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was found in the cluster.

    Attributes:
        problem: why nothing was made of the Gateway; empty: everything was.
        reason: the problem in one word.
        hostname: of the Service.
        addresses: by which the Service is called; none while there are none.
        ready: pods that are ready.
    """

    problem: str = ""
    reason: str = ""
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    ready: int = 0


def of_gateway(gateway: Gateway, observed: Observed, held: Json, now: str) -> Json:
    """Return the whole status.

    Args:
        gateway: the Gateway.
        observed: what was found of it.
        held: the status that it has.
        now: the present time, RFC 3339.
    """
    generation = gateway.metadata.generation
    # A Gateway with addresses has been ready before.
    addresses = _addresses(observed) if observed.ready or held.get("addresses") else []
    programmed = _programmed(observed)
    conditions = conditions_of(
        [_accepted(observed), programmed], held.get("conditions") or (), generation=generation, now=now
    )
    before = {str(one.get("name")): one for one in held.get("listeners") or ()}
    return {
        "addresses": addresses,
        "conditions": conditions,
        "listeners": [
            _listener(listener, programmed, before.get(listener.name, {}), generation=generation, now=now)
            for listener in gateway.spec.listeners
        ],
    }


def of_remote(gateway: Gateway, held: Json, now: str) -> Json:
    """Return the whole status of a Gateway that others run: its addresses are those that its user writes."""
    generation = gateway.metadata.generation
    addresses = [{"type": one.type, "value": one.value} for one in gateway.spec.addresses if one.value]
    accepted: Condition = ("Accepted", True, "Accepted", "Resource accepted")
    programmed: Condition = ("Programmed", True, "Programmed", "Others run this gateway at its addresses")
    if not addresses:
        programmed = ("Programmed", False, "AddressNotAssigned", "spec.addresses is empty; write where it is called")
    before = {str(one.get("name")): one for one in held.get("listeners") or ()}
    of_listener = [
        ("Accepted", True, "Accepted", "No errors found"),
        ("Conflicted", False, "NoConflicts", "No errors found"),
        programmed,
        ("ResolvedRefs", True, "ResolvedRefs", "No errors found"),
    ]
    listeners = [
        {
            "name": one.name,
            "attachedRoutes": 0,
            "supportedKinds": [],
            "conditions": conditions_of(
                of_listener, before.get(one.name, {}).get("conditions") or (), generation=generation, now=now
            ),
        }
        for one in gateway.spec.listeners
    ]
    conditions = conditions_of([accepted, programmed], held.get("conditions") or (), generation=generation, now=now)
    return {"addresses": addresses, "conditions": conditions, "listeners": listeners}


def of_class(held: Json, generation: int, now: str) -> Json:
    """Return the status of a class that is ours."""
    accepted = ("Accepted", True, "Accepted", "Handled by Culvert")
    return {"conditions": conditions_of([accepted], held.get("conditions") or (), generation=generation, now=now)}


Condition = tuple[str, bool, str, str]
"""Type, status, reason, message."""


def _accepted(observed: Observed) -> Condition:
    if observed.problem:
        return ("Accepted", False, observed.reason, observed.problem)
    return ("Accepted", True, "Accepted", "Resource accepted")


def _programmed(observed: Observed) -> Condition:
    if observed.problem:
        return ("Programmed", False, "Invalid", observed.problem)
    if not observed.addresses:
        return ("Programmed", False, "AddressNotAssigned", "The waypoint's Service has no address yet")
    if not observed.ready:
        return ("Programmed", False, "Pending", "No pod of the waypoint is ready")
    where = f"{observed.hostname}:{names.HBONE_PORT}"
    return ("Programmed", True, "Programmed", f"Resource programmed, assigned to service(s) {where}")


def _addresses(observed: Observed) -> list[Json]:
    found = [{"type": AddressType.IP.value, "value": address} for address in observed.addresses]
    return [*found, {"type": AddressType.HOSTNAME.value, "value": observed.hostname}] if found else []


def _listener(listener: Listener, programmed: Condition, held: Json, *, generation: int, now: str) -> Json:
    supported = listener.protocol == _HBONE
    reason = "Accepted" if supported else "UnsupportedProtocol"
    said = "No errors found" if supported else f"A waypoint has listeners of protocol {_HBONE} only"
    conditions: list[Condition] = [
        ("Accepted", supported, reason, said),
        ("Conflicted", False, "NoConflicts", "No errors found"),
        programmed if supported else ("Programmed", False, "Invalid", said),
        ("ResolvedRefs", True, "ResolvedRefs", "No errors found"),
    ]
    return {
        "name": listener.name,
        "attachedRoutes": int(held.get("attachedRoutes") or 0),
        "supportedKinds": [],
        "conditions": conditions_of(conditions, held.get("conditions") or (), generation=generation, now=now),
    }


def conditions_of(wanted: Sequence[Condition], held: Sequence[Json], *, generation: int, now: str) -> list[Json]:
    """Return conditions; one whose status has not changed keeps its time."""
    conditions = [transitions.condition(*one, generation) for one in wanted]
    return transitions.timed(conditions, held, now)
