"""The status of gateways at the edge, and of their ListenerSets. Pure.

Source: Gateway API v1, ``GatewayStatus``, ``ListenerStatus`` and ``ListenerSetStatus``.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import replace

from controlplane.gateways import report as reports
from controlplane.gateways.listener import Demand
from controlplane.gateways.report import GatewayReport, ListenerReport
from controlplane.inputs.verdicts import Verdict
from controlplane.proxies.status import Condition, Observed, conditions_of
from meshapi.resources.gateway import GROUP, AddressType, Gateway, ListenerSet
from meshkit.kube import Json


def of_gateway(gateway: Gateway, report: GatewayReport, observed: Observed, held: Json, now: str) -> Json:
    """Return the whole status.

    Args:
        gateway: the Gateway.
        report: what its objects and routes tell.
        observed: what was found of it in the cluster.
        held: the status that it has.
        now: the present time, RFC 3339.
    """
    own = report.of("Gateway", gateway.key)
    accepted = _refused(observed) or _with_problems(reports.valid(own, "Gateway"), report.gateway.problems)
    programmed = _programmed(observed, accepted, [one.value for one in gateway.spec.addresses if one.value])
    wanted = [_condition("Accepted", accepted), _condition("Programmed", programmed)]
    if report.gateway.resolved is not None:
        wanted.append(_condition("ResolvedRefs", report.gateway.resolved))
    if any(one.listener.clients is not None and one.listener.clients.demand is Demand.ANYTHING for one in own):
        said = "clients without a valid certificate are served, too (AllowInsecureFallback)"
        wanted.append(("InsecureFrontendValidationMode", True, "ConfigurationChanged", said))
    conditions = conditions_of(wanted, held.get("conditions") or (), generation=gateway.metadata.generation, now=now)
    found: Json = {
        "addresses": [_address(one) for one in observed.addresses] if not observed.problem else [],
        "conditions": conditions,
        "listeners": _listeners(own, programmed, held, gateway.metadata.generation, now),
    }
    return found | {"attachedListenerSets": len(report.gateway.listener_sets)}


def of_listener_set(item: ListenerSet, report: GatewayReport, is_programmed: bool, held: Json, now: str) -> Json:
    """Return the whole status of a ListenerSet that names a gateway.

    Args:
        item: the ListenerSet.
        report: of the gateway.
        is_programmed: whether the gateway runs.
        held: the status that it has.
        now: the present time, RFC 3339.
    """
    own = report.of("ListenerSet", item.key)
    generation = item.metadata.generation
    if not own:
        parent = item.spec.parent_ref
        accepted = Verdict(False, "NotAllowed", f"Gateway {parent.name} does not admit it; see its allowedListeners")
    else:
        accepted = reports.valid(own, "ListenerSet")
    ready = Verdict(True, "Programmed", "Resource programmed")
    if not accepted.is_true:
        ready = accepted
    elif not is_programmed:
        ready = Verdict(False, "Pending", "the gateway does not run yet")
    wanted = [_condition("Accepted", accepted), _condition("Programmed", ready)]
    return {
        "conditions": conditions_of(wanted, held.get("conditions") or (), generation=generation, now=now),
        "listeners": _listeners(own, ready, held, generation, now),
    }


def is_programmed(status: Json) -> bool:
    """Return whether a status says that a gateway runs."""
    return any(one["type"] == "Programmed" and one["status"] == "True" for one in status["conditions"])


def _with_problems(accepted: Verdict, problems: Sequence[str]) -> Verdict:
    """Return the condition ``Accepted`` with what has no effect at the gateway's pods."""
    return replace(accepted, message="; ".join((accepted.message, *problems))) if problems else accepted


def _refused(observed: Observed) -> Verdict | None:
    return Verdict(False, observed.reason, observed.problem) if observed.problem else None


def _programmed(observed: Observed, accepted: Verdict, wanted: Sequence[str]) -> Verdict:
    if not accepted.is_true:
        return Verdict(False, "Invalid", accepted.message)
    if not observed.addresses and wanted:
        message = f"Service {observed.hostname} has not been given {wanted[0]}, which spec.addresses asks for"
        return Verdict(False, "AddressNotUsable", message)
    if not observed.addresses:
        return Verdict(False, "AddressNotAssigned", f"Service {observed.hostname} has no address yet")
    if not observed.ready:
        return Verdict(False, "Pending", "No pod of the gateway is ready")
    return Verdict(True, "Programmed", f"Resource programmed, assigned to service(s) {observed.hostname}")


def _address(value: str) -> Json:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return {"type": AddressType.HOSTNAME.value, "value": value}
    return {"type": AddressType.IP.value, "value": value}


def _listeners(own: Iterable[ListenerReport], programmed: Verdict, held: Json, generation: int, now: str) -> list[Json]:
    before = {str(one.get("name")): one for one in held.get("listeners") or ()}
    return [_listener(one, programmed, before.get(one.listener.name, {}), generation, now) for one in own]


def _listener(one: ListenerReport, programmed: Verdict, held: Json, generation: int, now: str) -> Json:
    listener = one.listener
    wanted: Sequence[Condition] = [
        _condition("Accepted", listener.accepted),
        _condition("Conflicted", listener.conflicted),
        _condition("Programmed", one.programmed if programmed.is_true else _pending(one, programmed)),
        _condition("ResolvedRefs", listener.resolved),
    ]
    return {
        "name": listener.name,
        "attachedRoutes": one.attached,
        "supportedKinds": [{"group": GROUP, "kind": kind} for kind in listener.kinds],
        "conditions": conditions_of(wanted, held.get("conditions") or (), generation=generation, now=now),
    }


def _pending(one: ListenerReport, programmed: Verdict) -> Verdict:
    """Return why a listener is not programmed: what is wrong with itself goes before what is with its gateway."""
    return Verdict(False, "Pending", programmed.message) if one.programmed.is_true else one.programmed


def _condition(kind: str, verdict: Verdict) -> Condition:
    return (kind, verdict.is_true, verdict.reason, verdict.message)
