"""Connections and lost packets, as text and for programs. Pure."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from meshapi import names
from nodeagent.trace import timeline
from nodeagent.trace.events import KernelEvent, What
from nodeagent.trace.pods import End, Pods
from nodeagent.trace.timeline import Connection

_TROUBLE = {What.RETRANSMIT: "sent again", What.RESET_SENT: "reset sent", What.RESET_RECEIVED: "reset received"}


def ends(connection: Connection, pods: Pods) -> tuple[End, End]:
    """Return who has called, and what."""
    fields = connection.entry.fields if connection.entry else {}
    client, server = connection.client, connection.server or ("", 0)
    if connection.entry and (connection.entry.is_inbound or server[1] in names.CAPTURE_PORTS):
        server = connection.entry.target or connection.entry.destination
    return (
        pods.end(client, name=_name(fields.get("src.namespace", ""), fields.get("src.workload", ""))),
        pods.end(
            server,
            name=_name(fields.get("dst.namespace", ""), fields.get("dst.workload", "")),
            host=fields.get("dst.service", ""),
        ),
    )


def text(connection: Connection, pods: Pods) -> str:
    """Return the timeline: milliseconds from the beginning, and from the step before."""
    return "\n".join(_lines(connection, pods))


def document(connection: Connection, pods: Pods) -> dict[str, Any]:
    """Return the timeline for programs; times are seconds."""
    source, destination = ends(connection, pods)
    began = connection.began_s
    return {
        "began": _time(began),
        "source": _end(source),
        "destination": _end(destination),
        "verdict": timeline.verdict(connection),
        "steps": [{"at": round(one.at_s - began, 6), "what": one.text} for one in timeline.steps(connection)],
    }


def trouble(event: KernelEvent, pods: Pods) -> str:
    """Return a packet that was dropped or sent again, or a reset, as a line."""
    return f"{_time(event.at_s)}  {reason(event)}  {pods.title(event.local)} -> {pods.title(event.remote)}"


def trouble_document(event: KernelEvent, pods: Pods) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "at": _time(event.at_s),
        "what": reason(event),
        "source": _end(pods.end(event.local)),
        "destination": _end(pods.end(event.remote)),
    }


def reason(event: KernelEvent) -> str:
    """Return what went wrong."""
    return f"dropped ({event.detail})" if event.what is What.DROP else _TROUBLE[event.what]


def summary(counts: Counter[str]) -> str:
    """Return how often each thing went wrong."""
    return "\n".join(f"{count:>8}  {what}" for what, count in counts.most_common())


def _lines(connection: Connection, pods: Pods) -> Iterator[str]:
    source, destination = ends(connection, pods)
    host = f", {destination.host}" if destination.host else ""
    yield f"{_time(connection.began_s)}  {_title(source)} -> {_title(destination)}{host}"
    if said := timeline.verdict(connection):
        yield f"  {said}"
    elif connection.closed:
        yield "  not captured, or not reported by ztunnel"
    before = connection.began_s
    for step in timeline.steps(connection):
        at, since = (step.at_s - connection.began_s) * 1000, (step.at_s - before) * 1000
        before = step.at_s
        yield f"  {at:>10.3f} ms  {since:>+10.3f}  {step.text}"


def _title(end: End) -> str:
    address = f"[{end.address}]:{end.port}" if ":" in end.address else f"{end.address}:{end.port}"
    return f"{end.name} {address}" if end.name else address


def _end(end: End) -> dict[str, Any]:
    return {"name": end.name, "address": end.address, "port": end.port, "host": end.host}


def _name(namespace: str, workload: str) -> str:
    return f"{namespace}/{workload}" if workload else ""


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
