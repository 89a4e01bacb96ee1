"""The explanation of a connection, in sentences. Pure."""

from collections.abc import Iterator
from typing import Final

from meshkit.kube import Json

_SECURITY: Final = {
    "mutual_tls": "by mutual TLS",
    "kernel": "directly, within the node",
    "unknown": "in plain text",
}
"""Values of the label ``connection_security_policy``."""


def render(document: Json) -> str:
    """Return the text."""
    return "\n".join(_lines(document))


def _lines(document: Json) -> Iterator[str]:
    source = document["source"]
    yield f"{source['pod']} on {source['node']} {_capture(source['capture'])}"
    if narrowed := source.get("narrowedBy"):
        yield f"  Its annotations narrow that, see what they exclude: {', '.join(narrowed)}."
    yield from _destination(document["destination"], document["waypoint"])
    for one in document["endpoints"]:
        yield ""
        yield from _endpoint(one, document["waypoint"])
    yield ""
    yield _result(document)


def _capture(capture: Json) -> str:
    if capture["captured"]:
        return f"is captured by {capture['backend']} since {capture['since']}: its connections go through its tunnel."
    reason = capture["reason"] or f"state {capture['state']}"
    return f"is not captured ({reason}): its connections leave as they are, in plain text."


def _destination(destination: Json, waypoint: str) -> Iterator[str]:
    kind, name = destination["kind"], destination["name"]
    if kind == "address":
        yield f"{name} is an address that the mesh does not know."
    elif kind == "service":
        yield f"It calls service {name} ({destination['host']}), port {destination['port']}."
    else:
        yield f"It calls pod {name}, port {destination['port']}."
    if waypoint:
        yield (
            f"The {kind} has the waypoint {waypoint}, which decides about requests "
            f"(`culvert describe {kind} {name.partition('/')[2]} -n {name.partition('/')[0]}`)."
        )


def _endpoint(one: Json, waypoint: str) -> Iterator[str]:
    where = f"{one['pod'] or 'The address'}" + (f" on {one['node']}" if one["node"] else "")
    if one["path"] == "refused":
        yield f"The caller's ztunnel refuses: {one['why']}."
        return
    yield f"{where}, {one['address']}:{one['port']}:" if one["pod"] else "The address:"
    if capture := one["capture"]:
        yield f"  It {_capture_of_called(capture)}"
    yield f"  {_path(one, waypoint)}"
    if one["verdict"]:
        yield f"  {_verdict(one)}"
    if one["connections"]:
        yield f"  {_counts(one['connections'])}"


def _capture_of_called(capture: Json) -> str:
    if capture["captured"]:
        return f"is captured by {capture['backend']} since {capture['since']}."
    return f"is not captured ({capture['reason'] or 'state ' + str(capture['state'])})."


def _path(one: Json, waypoint: str) -> str:
    match one["path"]:
        case "tunnel":
            return f"The connection goes through the tunnel, as {one['caller']}."
        case "direct":
            return f"The connection goes directly, within the node: not encrypted, authenticated as {one['caller']}."
        case "waypoint":
            last = f"as {one['caller']}" if one["caller"] else "in plain text"
            return f"The connection goes through the waypoint {waypoint}, and from there {last}."
        case _:
            return "The connection goes in plain text."


def _verdict(one: Json) -> str:
    verdict = one["verdict"]
    unknown = "" if one["caller"] else " (plain text has no identity)"
    if not verdict["allowed"]:
        text = f"Policy refuses it: {verdict['reason']}{unknown}."
    elif verdict["policy"]:
        text = f"Policy {verdict['policy']} allows it."
    else:
        text = "No policy restricts it."
    dry = f" Dry run would also match: {', '.join(verdict['dryRun'])}." if verdict["dryRun"] else ""
    return text + dry


def _counts(counts: Json) -> str:
    opened = [f"{number} {_SECURITY.get(kind, kind)}" for kind, number in counts["opened"].items()]
    failed = [f"{number} with {flag}" for flag, number in counts["failed"].items()]
    ended = f"; ended for a reason: {', '.join(failed)}" if failed else ""
    return f"Between the two workloads so far: {', '.join(opened) or 'none'}{ended}."


def _result(document: Json) -> str:
    refused = sum(not one["allowed"] for one in document["endpoints"])
    if not refused:
        return "Result: carried."
    return (
        "Result: refused."
        if refused == len(document["endpoints"])
        else (f"Result: refused at {refused} of {len(document['endpoints'])} endpoints.")
    )
