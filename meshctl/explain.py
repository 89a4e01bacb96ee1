"""``culvert explain``: what becomes of a connection of a pod, and why, from the live state of both ends."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import typer

from meshapi import names
from meshctl import pages, session
from meshctl.components import Part
from meshctl.description import facts
from meshctl.explanation import counts, paths, question, text
from meshctl.explanation.paths import Leg, Path, Paths, World
from meshctl.output import Form, Output, show
from meshctl.pages import Process, Sample
from meshctl.proxy_config import sources
from meshctl.proxy_config.dump import Item
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json

REFUSED: Final = 3
"""Exit status: at least one endpoint refuses, or there is no way."""
_NARROWING: Final = (
    names.INCLUDE_INBOUND_PORTS_ANNOTATION, names.EXCLUDE_INBOUND_PORTS_ANNOTATION,
    names.INCLUDE_OUTBOUND_PORTS_ANNOTATION, names.EXCLUDE_OUTBOUND_PORTS_ANNOTATION,
    names.INCLUDE_OUTBOUND_RANGES_ANNOTATION, names.EXCLUDE_OUTBOUND_RANGES_ANNOTATION,
    names.EXCLUDE_INTERFACES_ANNOTATION,
)  # fmt: skip


def explain(
    *,
    source: Annotated[str, typer.Argument(help="The pod that calls: POD[.NAMESPACE] or NAMESPACE/POD.")],
    destination: Annotated[
        str,
        typer.Argument(help="What it calls: HOST:PORT, NAME[.NAMESPACE]:PORT, NAMESPACE/NAME:PORT or ADDRESS:PORT."),
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Where they are, unless their names say so.")
    ] = "default",
    output: Output = Form.TABLE,
    system_namespace: session.SystemNamespace = session.DEFAULT_NAMESPACE,
    kubeconfig: session.Kubeconfig = None,
    context: session.Context = None,
) -> None:
    """Say which way a connection takes, who decides, and how many took it; status 3 if it is refused."""

    async def work(client: kube.Client) -> Json:
        caller = question.source(source, namespace)
        return await explained(client, caller, question.destination(destination, caller.namespace), system_namespace)

    found = session.run("explain", work, kubeconfig=kubeconfig, context=context)
    show(output, text.render(found), found)
    if not all(one["allowed"] for one in found["endpoints"]):
        raise typer.Exit(REFUSED)


async def explained(
    client: kube.Client, caller: question.Name, asked: question.Destination, system_namespace: str
) -> Json:
    """Return the explanation as a document. Raises ``CommandError``."""
    pod = await sources.find_pod(client, sources.Target("pod", caller.name, caller.namespace))
    node = pod["spec"].get("nodeName", "")
    found = await pages.processes(client, system_namespace, Part.ZTUNNEL, Part.NODE_AGENT)
    ends = Ends(client, found)
    dump, captures = await asyncio.gather(pages.config_dump(client, ends.ztunnel(node)), ends.captures(node))
    capture = captures.get(caller.key, _UNKNOWN)
    workload = facts.find(dump.get("workloads") or (), *caller.key)
    if workload is None:
        raise CommandError(f"ztunnel does not know pod {'/'.join(caller.key)}; see `culvert proxy-status`")
    way = World(dump, workload, is_captured=capture["captured"]).paths(asked)
    annotations = pod["metadata"].get("annotations") or {}
    return {
        "source": {
            "pod": "/".join(caller.key), "node": node, "identity": paths.identity(workload), "capture": capture,
            "narrowedBy": sorted(set(_NARROWING) & set(annotations)),
        },
        "destination": {"kind": way.kind, "name": way.name, "host": way.host, "port": asked.port},
        "waypoint": "/".join(way.waypoint or ()),
        "endpoints": await _endpoints(ends, workload, way, node),
    }  # fmt: skip


async def _endpoints(ends: "Ends", source: Item, way: Paths, node: str) -> list[Json]:
    answers = await pages.each(ends.endpoint(source, leg, node) for leg in way.legs)
    for answer in answers:
        if isinstance(answer, CommandError):
            raise answer
    return sorted(answers, key=lambda one: (one["node"], one["pod"]))


_UNKNOWN: Final[Json] = {
    "captured": False, "state": "unknown", "backend": None, "since": None, "reason": "its node agent does not know it",
}  # fmt: skip


class Ends:
    """The nodes' processes, each page of them fetched once."""

    def __init__(self, client: kube.Client, found: Iterable[Process]) -> None:
        self._client = client
        serving = [one for one in found if one.ready]
        self._ztunnels = {one.node: one for one in serving if one.part is Part.ZTUNNEL}
        self._agents = {one.node: one for one in serving if one.part is Part.NODE_AGENT}
        self._captures: dict[str, asyncio.Task[dict[tuple[str, str], Json]]] = {}
        self._samples: dict[str, asyncio.Task[list[Sample]]] = {}

    def ztunnel(self, node: str) -> Process:
        """Return the ztunnel of a node. Raises ``CommandError``."""
        if node not in self._ztunnels:
            raise CommandError(f"no ztunnel on node {node or '(none)'} is ready; see `culvert status`")
        return self._ztunnels[node]

    async def captures(self, node: str) -> Mapping[tuple[str, str], Json]:
        """Return how the pods of a node are captured, by namespace and name; empty without a node agent."""
        if node not in self._agents:
            return {}
        if node not in self._captures:
            self._captures[node] = asyncio.create_task(self._captured(node))
        return await self._captures[node]

    async def endpoint(self, source: Item, leg: Leg, node: str) -> Json:
        """Return what becomes of the connection at one endpoint, for a caller on ``node``. Raises ``CommandError``."""
        workload = leg.workload or {}
        there = workload.get("node", "")
        capture = (await self.captures(there)).get((workload.get("namespace", ""), workload.get("name", "")))
        is_captured = bool(capture and capture["captured"])
        verdict = await self._verdict(source, leg, there) if is_captured and leg.path is not Path.NOWHERE else None
        sees = there if is_captured else node
        taken = await self._counts(counts.pair(source, workload), sees) if workload else None
        return {
            "pod": f"{workload['namespace']}/{workload['name']}" if workload else "",
            "node": there,
            "address": leg.address,
            "port": leg.port,
            "capture": capture,
            "path": str(leg.path),
            "caller": paths.identity(leg.caller) if leg.caller else "",
            "why": leg.why,
            "verdict": verdict,
            "allowed": leg.path is not Path.NOWHERE and (verdict is None or verdict["allowed"]),
            "connections": taken,
        }

    async def _captured(self, node: str) -> dict[tuple[str, str], Json]:
        items = await pages.pods(self._client, self._agents[node])
        wanted = ("state", "backend", "since", "reason")
        return {
            (one["namespace"], one["name"]): {
                "captured": one["state"] in paths.CAPTURED_STATES, **{key: one[key] for key in wanted}
            }
            for one in items
        }  # fmt: skip

    async def _verdict(self, source: Item, leg: Leg, node: str) -> Json:
        """Ask the ztunnel that decides, by the code that decides."""
        asked = {
            "workload": (leg.workload or {})["uid"],
            "source": paths.address_of(leg.caller or source, leg.address),
            "destination": leg.address,
            "port": str(leg.port),
        }
        if leg.caller is not None:
            asked["identity"] = paths.identity(leg.caller)
        return await pages.verdict(self._client, self.ztunnel(node), asked)

    async def _counts(self, pair: counts.Pair, node: str) -> Json | None:
        if node not in self._ztunnels:
            return None
        if node not in self._samples:
            self._samples[node] = asyncio.create_task(pages.metrics(self._client, self._ztunnels[node]))
        return counts.of(pair, await self._samples[node])
