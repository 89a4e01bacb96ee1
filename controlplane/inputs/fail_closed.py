"""Fail-closed substitutes for invalid policies without a last good form.

Without a substitute, a policy that the API server accepted and that we cannot parse would not exist, and its workloads
would be open to the peers that it was written against. A substitute uses only fields that are certain: name, selector,
action. An invalid ALLOW allows no peer (other policies may still allow); an invalid DENY, or a policy with an invalid
action, denies every peer; a PeerAuthentication requires mutual TLS, and a BackendTLSPolicy accepts no certificate. What
layer 4 does not enforce stays unenforced.
"""

from typing import Any, Final

from meshapi.resources import security
from meshapi.resources.backend_policies import BackendTLSPolicy
from meshkit.kube import Json

_NOT_OURS: Final = frozenset({security.Action.AUDIT, security.Action.CUSTOM})


def policy(item: Json) -> security.AuthorizationPolicy:
    """Return a policy that denies all traffic to the workloads that ``item`` selects."""
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
    """Return an object that requires mutual TLS for the workloads that ``item`` selects."""
    strict = {"mtls": {"mode": security.MtlsMode.STRICT}}
    spec = strict | _selector(_mapping(item.get("spec")))
    return security.PeerAuthentication.model_validate(_metadata(item) | {"spec": spec})


def backend_tls(item: Json) -> BackendTLSPolicy:
    """Return a policy that accepts no certificate, for those of the targets of ``item`` that can be read."""
    given = _mapping(item.get("spec")).get("targetRefs")
    targets = [
        {"group": one.get("group") or "", "kind": one["kind"], "name": one["name"]}
        for one in (given if isinstance(given, list) else ())
        if isinstance(one, dict) and isinstance(one.get("kind"), str) and isinstance(one.get("name"), str)
    ]
    spec = {"targetRefs": targets, "validation": {"hostname": "invalid"}}
    return BackendTLSPolicy.model_validate(_metadata(item) | {"spec": spec})


def _metadata(item: Json) -> Json:
    return {"metadata": item["metadata"]}


def _selector(spec: Json) -> Json:
    """Return the selector if it is valid; else none, which selects the whole namespace."""
    labels = _mapping(_mapping(spec.get("selector")).get("matchLabels"))
    readable = all(isinstance(value, str) for value in labels.values())
    return {"selector": {"matchLabels": labels}} if labels and readable else {}


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}
