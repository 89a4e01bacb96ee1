"""Which listeners of a gateway exclude each other. Source: Gateway API v1, ``Gateway.spec.listeners``.

Two listeners of one object that conflict are both refused: none of them is chosen. A listener of a ListenerSet gives
way to those of the Gateway, and of older ListenerSets.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from controlplane.gateways.listener import EdgeListener, Spoken
from controlplane.inputs.verdicts import Verdict

_HOSTNAME: Final = "HostnameConflict"
_PROTOCOL: Final = "ProtocolConflict"
_FAMILIES: Final = {
    Spoken.HTTP: "HTTP",
    Spoken.HTTPS: "TLS",
    Spoken.TLS: "TLS",
    Spoken.PASSTHROUGH: "TLS",
    Spoken.TCP: "TCP",
    Spoken.UDP: "UDP",
}


def marked(listeners: Iterable[EdgeListener]) -> tuple[EdgeListener, ...]:
    """Return listeners, in order of precedence, with their conflicts."""
    found: list[EdgeListener] = []
    for _, siblings in itertools.groupby(listeners, key=lambda one: one.id[:2]):
        judged = [_refused_by(one, found) for one in siblings]
        # A listener that is refused already conflicts with no other one.
        left = [one for one in judged if one.accepted.is_true]
        found += [_refused_by(one, left) for one in judged]
    return tuple(found)


def _refused_by(one: EdgeListener, others: Iterable[EdgeListener]) -> EdgeListener:
    """Return a listener, refused if it conflicts with one of the others that are accepted."""
    if not one.accepted.is_true:
        return one
    found = ((reason, other) for other in others if (reason := _conflict(one, other)))
    reason, rival = next(found, ("", one))
    return _refused(one, reason, rival) if reason else one


def _is_sibling(one: EdgeListener, other: EdgeListener) -> bool:
    return one.id[:2] == other.id[:2]


def _conflict(one: EdgeListener, other: EdgeListener) -> str:
    """Return the reason for which two listeners exclude each other; empty: they do not."""
    if one.port != other.port or one.spoken is None or other.spoken is None:
        return ""
    if one.id == other.id or not other.accepted.is_true:
        return ""
    families = {_FAMILIES[one.spoken], _FAMILIES[other.spoken]}
    if len(families) == 1:
        return _HOSTNAME if one.hostname == other.hostname else ""
    return "" if "UDP" in families else _PROTOCOL


def _refused(one: EdgeListener, reason: str, rival: EdgeListener) -> EdgeListener:
    same = "the same hostname" if reason == _HOSTNAME else f"protocol {_FAMILIES[rival.spoken or Spoken.TCP]}"
    where = "" if _is_sibling(one, rival) else f" of {rival.owner_kind} {'/'.join(rival.owner)}"
    message = f"listener {rival.name}{where} has port {rival.port} with {same}"
    return replace(one, accepted=Verdict(False, reason, message), conflicted=Verdict(True, reason, message))
