"""Which policies apply, in the order in which they are evaluated. Pure.

A waypoint: tokens are read first, then CUSTOM, DENY and ALLOW decide. A ztunnel: DENY, then ALLOW. A request has to
pass every stage; where there is an ALLOW, one of them must match.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshctl.proxy_config.dump import Item
from meshkit.kube import Json, kinds

Key = tuple[str, str]
_ORDER: Final = ("RequestAuthentication", "CUSTOM", "DENY", "ALLOW", "AUDIT")
_OF_WAYPOINTS: Final = "WaypointAccepted"
_GATEWAY_GROUP: Final = kinds.GATEWAY.group


@dataclass(frozen=True, slots=True)
class Scope:
    """What a policy at a waypoint can name.

    Attributes:
        service: namespace and name; ``None``: a workload is called by its own address.
        gateway: namespace and name of the waypoint's Gateway.
        root_namespace: where policies for the class of waypoints are.
    """

    service: Key | None
    gateway: Key
    root_namespace: str


def at_waypoint(items: Iterable[Json], scope: Scope) -> list[Json]:
    """Return the policies that name a service, if there is one, its waypoint or the class of waypoints.

    Args:
        items: AuthorizationPolicies and RequestAuthentications, with their ``kind``.
        scope: what they can name.
    """
    found = [_of_object(item) for item in items if any(_names(item, one, scope) for one in _references(item))]
    return in_order(found)


def at_ztunnel(document: Item, workload: Item) -> list[Json]:
    """Return the policies that a pod's ztunnel enforces for it, out of the ztunnel's dump."""
    attached = set(workload.get("authorizationPolicies") or ())
    namespace = workload.get("namespace", "")
    found = []
    for one in document.get("policies") or ():
        name = f"{one.get('namespace', '')}/{one.get('name', '')}"
        covers = one["scope"] == "Global" or (one["scope"] == "Namespace" and one.get("namespace") == namespace)
        if (covers or name in attached) and not _is_peer(name):
            found.append(_entry("AuthorizationPolicy", name, one["action"].upper(), is_dry_run=bool(one.get("dryRun"))))
    return in_order(found)


def in_order(entries: Iterable[Json]) -> list[Json]:
    """Return policies in the order in which they are evaluated."""
    return sorted(entries, key=_place)


def mutual_tls(workload: Item) -> str:
    """Return whether a pod takes connections without mutual TLS, in PeerAuthentication's words."""
    if workload.get("protocol") != "HBONE":
        return "DISABLE (not in the mesh)"
    peers = sorted(filter(_is_peer, workload.get("authorizationPolicies") or ()))
    for namespace, name in (peer.split("/", 1) for peer in peers):
        if name.startswith(names.CONVERTED_PEER_AUTHENTICATION_PREFIX):
            original = name.removeprefix(names.CONVERTED_PEER_AUTHENTICATION_PREFIX)
            return f"by port (PeerAuthentication {namespace}/{original})"
    return "STRICT" if peers else "PERMISSIVE"


def _references(item: Json) -> Iterator[Json]:
    spec = item.get("spec") or {}
    yield from spec.get("targetRefs") or ([spec["targetRef"]] if spec.get("targetRef") else [])


def _names(item: Json, reference: Json, scope: Scope) -> bool:
    namespace = item["metadata"]["namespace"]
    if reference.get("namespace") not in (None, "", namespace):
        return False
    group = reference.get("group") or ""
    target = ("" if group == "core" else group, reference.get("kind"), namespace, reference.get("name"))
    return target in {
        *([("", kinds.SERVICE.name, *scope.service)] if scope.service is not None else []),
        (_GATEWAY_GROUP, kinds.GATEWAY.name, *scope.gateway),
        (_GATEWAY_GROUP, kinds.GATEWAY_CLASS.name, scope.root_namespace, names.WAYPOINT_CLASS),
    }


def _of_object(item: Json) -> Json:
    metadata, kind = item["metadata"], item["kind"]
    action = (item.get("spec") or {}).get("action", "ALLOW") if kind == kinds.AUTHORIZATION_POLICY.name else ""
    is_dry_run = (metadata.get("annotations") or {}).get(names.DRY_RUN_ANNOTATION) == "true"
    made = _entry(kind, f"{metadata['namespace']}/{metadata['name']}", action, is_dry_run=is_dry_run)
    if problem := condition_problem(item, _OF_WAYPOINTS):
        made["problem"] = problem
    return made


def condition_problem(item: Json, kind: str) -> str:
    """Return the message of an object's condition if it is false."""
    conditions: Sequence[Json] = (item.get("status") or {}).get("conditions") or ()
    return next((str(one.get("message")) for one in conditions if one["type"] == kind and one["status"] == "False"), "")


def _entry(kind: str, name: str, action: str, *, is_dry_run: bool) -> Json:
    made: Json = {"kind": kind, "name": name}
    if action:
        made["action"] = action
    if is_dry_run:
        made["dryRun"] = True
    return made


def _place(entry: Json) -> tuple[int, str]:
    return (_ORDER.index(entry.get("action", entry["kind"])), entry["name"])


def _is_peer(name: str) -> bool:
    own = name.partition("/")[2]
    return own == names.STATIC_STRICT_POLICY or own.startswith(names.CONVERTED_PEER_AUTHENTICATION_PREFIX)
