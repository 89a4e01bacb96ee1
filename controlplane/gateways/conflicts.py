"""Which listeners of a gateway exclude each other. Source: Gateway API v1, ``Gateway.spec.listeners``.

Two listeners of one object that conflict are both refused: none of them is chosen. A listener of a ListenerSet gives
way to those of the Gateway, and of older ListenerSets.
"""

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
    every = tuple(listeners)
    for one in every:
        rivals = [
            *(other for other in found if not _is_sibling(other, one)),
            *(other for other in every if _is_sibling(other, one)),
        ]
        reasons = [(reason, other) for other in rivals if (reason := _conflict(one, other))]
        found.append(_refused(one, *reasons[0]) if reasons and one.accepted.is_true else one)
    return tuple(found)


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
