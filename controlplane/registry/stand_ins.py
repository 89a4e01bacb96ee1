"""What takes the place of a policy that cannot be read and has no last good form: one that closes.

Without, a policy that the API let through and we cannot read would be none at all, and its workloads open to whom it
was written against. Only what can be read surely is used: name, selector, action.

An unreadable ALLOW allows nobody (others may still allow); an unreadable DENY, or one whose action cannot be read,
denies everybody; PeerAuthentication demands mutual TLS. What layer 4 does not enforce stays unenforced.
"""

from typing import Any, Final

from meshapi.resources import security
from meshkit.kube import Json

_NOT_OURS: Final = frozenset({security.Action.AUDIT, security.Action.CUSTOM})


def policy(item: Json) -> security.AuthorizationPolicy:
    """Return a policy that closes the workloads that ``item`` is for."""
    spec = _mapping(item.get("spec"))
    action = spec.get("action") or security.Action.ALLOW
    bound_elsewhere = spec.get("targetRef") or spec.get("targetRefs")
    closed: dict[str, Any]
    if action in _NOT_OURS or bound_elsewhere:
        closed = {"action": security.Action.AUDIT}
    elif action == security.Action.ALLOW:
        closed = {"action": security.Action.ALLOW}
    else:
        closed = {"action": security.Action.DENY, "rules": [{}]}
    return security.AuthorizationPolicy.model_validate(_metadata(item) | {"spec": closed | _selector(spec)})


def peer(item: Json) -> security.PeerAuthentication:
    """Return an object that demands mutual TLS of the workloads that ``item`` is for."""
    strict = {"mtls": {"mode": security.MtlsMode.STRICT}}
    spec = strict | _selector(_mapping(item.get("spec")))
    return security.PeerAuthentication.model_validate(_metadata(item) | {"spec": spec})


def _metadata(item: Json) -> Json:
    return {"metadata": item["metadata"]}


def _selector(spec: Json) -> Json:
    """The selector, where it can be read; else the whole namespace is meant."""
    labels = _mapping(_mapping(spec.get("selector")).get("matchLabels"))
    readable = all(isinstance(value, str) for value in labels.values())
    return {"selector": {"matchLabels": labels}} if labels and readable else {}


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}
