"""What the status of a gateway says of it, as far as its objects and routes tell."""

from dataclasses import dataclass

from controlplane.gateways.listener import EdgeGateway, EdgeListener
from controlplane.inputs.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class ListenerReport:
    """A listener, and how many routes are attached to it."""

    listener: EdgeListener
    attached: int

    @property
    def programmed(self) -> Verdict:
        """Condition ``Programmed``, as far as the proxy gets the listener."""
        listener = self.listener
        if listener.is_served:
            return Verdict(True, "Programmed", "No errors found")
        if not listener.accepted.is_true:
            reason = listener.accepted.reason if listener.conflicted.is_true else "Invalid"
            return Verdict(False, reason, listener.accepted.message)
        return Verdict(False, "Invalid", listener.resolved.message)


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """A gateway with its listeners."""

    gateway: EdgeGateway
    listeners: tuple[ListenerReport, ...]

    def of(self, kind: str, key: tuple[str, str]) -> tuple[ListenerReport, ...]:
        """Return the listeners of an object."""
        return tuple(one for one in self.listeners if (one.listener.owner_kind, one.listener.owner) == (kind, key))

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the gateway and its listeners, as messages."""
        found = [
            verdict.message
            for one in self.listeners
            for verdict in (one.listener.accepted, one.listener.resolved)
            if not verdict.is_true
        ]
        if self.gateway.resolved is not None and not self.gateway.resolved.is_true:
            found.append(self.gateway.resolved.message)
        found += self.gateway.problems
        return tuple(dict.fromkeys(found))


def valid(listeners: tuple[ListenerReport, ...], what: str) -> Verdict:
    """Return the condition ``Accepted`` of an object that has listeners.

    Args:
        listeners: the object's.
        what: kind of the object. A ListenerSet of which nothing can be served is not accepted, a Gateway is.
    """
    wrong = [(one.listener, verdict) for one in listeners if not (verdict := _verdict(one, what)).is_true]
    if not wrong:
        return Verdict(True, "Accepted", "Resource accepted")
    said = "; ".join(f"listener {one.name}: {verdict.message}" for one, verdict in wrong)
    if len(wrong) == len(listeners):
        return Verdict(False, "ListenersNotValid", f"no listener of the {what} is valid: {said}")
    return Verdict(True, "ListenersNotValid", said)


def _verdict(one: ListenerReport, what: str) -> Verdict:
    return one.listener.accepted if what == "Gateway" else one.programmed
