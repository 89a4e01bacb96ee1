"""The pieces of a report. Each may fail or be late on its own; secrets are never read."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from meshapi import names
from meshctl import analyze, components, pages, proxy_status, version
from meshctl.components import Part
from meshctl.pages import Process
from meshctl.report.archive import MAX_ENTRY, Report
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, Kind, kinds

_LOG_LINES: Final = 20_000
_SIDE_BY_SIDE: Final = 8
_OURS: Final = (kinds.DEPLOYMENT, kinds.DAEMON_SET, kinds.POD, kinds.EVENT)
CLUSTER_KINDS: Final = (
    kinds.NAMESPACE,
    kinds.NODE,
    kinds.AUTHORIZATION_POLICY,
    kinds.PEER_AUTHENTICATION,
    kinds.REQUEST_AUTHENTICATION,
    kinds.TELEMETRY,
    kinds.SERVICE_ENTRY,
    kinds.ISTIO_GATEWAY,
    kinds.VIRTUAL_SERVICE,
    kinds.DESTINATION_RULE,
    kinds.WORKLOAD_ENTRY,
    kinds.SIDECAR,
    kinds.WORKLOAD_GROUP,
    kinds.ENVOY_FILTER,
    kinds.PROXY_CONFIG,
    kinds.WASM_PLUGIN,
    kinds.GATEWAY,
    kinds.GATEWAY_CLASS,
)
_PAGES: Final = {
    Part.CONTROL_PLANE: (names.CONTROL_PLANE_ADMIN_PORT, ("/debug/syncz", "/debug/model")),
    Part.NODE_AGENT: (names.NODE_AGENT_METRICS_PORT, ("/debug/pods",)),
    Part.ZTUNNEL: (names.ZTUNNEL_ADMIN_PORT, ("/config_dump",)),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to collect: what it is called when it fails, and how it is got."""

    name: str
    collect: Callable[[], Awaitable[None]]


async def collect(client: kube.Client, namespace: str, report: Report, *, piece_s: float, total_s: float) -> None:
    """Collect everything that can be had within ``total_s``, each piece within ``piece_s``."""
    try:
        processes = await asyncio.wait_for(pages.processes(client, namespace), piece_s)
    except (kube.KubeError, TimeoutError) as error:
        report.failed("pods", str(error) or "no answer in time")
        processes = []
    gateways = []
    with contextlib.suppress(kube.KubeError, TimeoutError):  # it has been said of the pods already
        every = await asyncio.wait_for(client.items(kinds.POD, namespace), piece_s)
        gateways = [pod for pod in every if components.is_gateway(pod)]
    # Logs first: if time runs out, what is missing should be what can still be read later.
    pieces = [
        *(piece for one in processes for piece in _of(client, one, report)),
        *(piece for pod in gateways for piece in _logs(client, pod, report)),
        *_of_cluster(client, namespace, report),
    ]
    places = asyncio.Semaphore(_SIDE_BY_SIDE)
    running = {asyncio.create_task(_guarded(piece, report, places, piece_s)): piece for piece in pieces}
    _, late = await asyncio.wait(running, timeout=total_s)
    for task in late:
        task.cancel()
        report.failed(running[task].name, f"not within the {total_s:.0f} s of the whole report")
    await asyncio.gather(*running, return_exceptions=True)


async def _guarded(piece: Piece, report: Report, places: asyncio.Semaphore, piece_s: float) -> None:
    async with places:
        try:
            await asyncio.wait_for(piece.collect(), piece_s)
        except TimeoutError:
            report.failed(piece.name, f"no answer within {piece_s:.0f} s")
        except (CommandError, kube.KubeError) as error:
            report.failed(piece.name, str(error))
        except Exception as error:  # a report is needed most when something unexpected happens
            report.failed(piece.name, f"{type(error).__name__}: {error}")


def _of_cluster(client: kube.Client, namespace: str, report: Report) -> list[Piece]:
    def listed(kind: Kind, where: str | None) -> Piece:
        name = f"{'system' if where else 'cluster'}/{kind.plural_title}.yaml"

        async def collect() -> None:
            report.object(name, await client.items(kind, where))

        return Piece(name, collect)

    async def config() -> None:
        report.object("system/mesh.yaml", await client.get(kinds.CONFIG_MAP, names.MESH_CONFIGMAP, namespace))

    async def lease() -> None:
        report.object("system/lease.yaml", await client.get(kinds.LEASE, names.CONTROL_PLANE_LEASE, namespace))

    async def captured() -> None:
        report.document("cluster/pods.json", [_brief(pod) for pod in await client.items(kinds.POD)])

    async def synchrony() -> None:
        found, silent = await proxy_status.collect(client, namespace)
        report.document("proxy-status.json", {"proxies": [one.document for one in found], "silent": silent})

    async def analysis() -> None:
        report.text("analyze.txt", "\n".join(map(str, analyze.examine(await analyze.load(client, namespace)))) + "\n")

    async def versions() -> None:
        answer = await client.version()
        report.document("versions.json", {"client": version.own_version(), "kubernetes": answer})

    return [
        *(listed(kind, namespace) for kind in _OURS),
        *(listed(kind, None) for kind in CLUSTER_KINDS),
        Piece("system/mesh.yaml", config),
        Piece("system/lease.yaml", lease),
        Piece("cluster/pods.json", captured),
        Piece("proxy-status.json", synchrony),
        Piece("analyze.txt", analysis),
        Piece("versions.json", versions),
    ]


def _logs(client: kube.Client, pod: Json, report: Report) -> list[Piece]:
    """Return the logs of a pod's containers, and those of before they were started again."""
    name_of, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]

    def log(container: str, *, previous: bool) -> Piece:
        name = f"pods/{name_of}/{container}{'.previous' if previous else ''}.log"
        query = {"container": container, "tailLines": str(_LOG_LINES), "limitBytes": str(MAX_ENTRY)}

        async def collect() -> None:
            text = await client.log(name_of, namespace, query | ({"previous": "true"} if previous else {}))
            report.text(name, text.decode(errors="replace"))

        return Piece(name, collect)

    containers = [one["name"] for one in pod["spec"].get("containers") or ()]
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    restarted = {one["name"] for one in statuses if one.get("restartCount")}
    pieces = [log(name, previous=False) for name in containers]
    return [*pieces, *(log(name, previous=True) for name in containers if name in restarted)]


def _of(client: kube.Client, process: Process, report: Report) -> list[Piece]:
    folder = f"pods/{process.pod}"

    def page(port: int, path: str, name: str) -> Piece:
        async def collect() -> None:
            report.text(name, (await pages.page(client, process, port, path)).decode(errors="replace"))

        return Piece(name, collect)

    pieces = _logs(client, process.item, report)
    if not process.ready:
        return pieces
    port, paths = _PAGES.get(process.part, (0, ()))
    pieces += [page(port, path, f"{folder}{path.replace('/debug', '')}.json") for path in paths]
    return [*pieces, page(pages.METRICS_PORTS[process.part], "/metrics", f"{folder}/metrics.txt")]


def _brief(pod: Json) -> Json:
    """Return the fields of a user's pod that matter to the mesh; its environment is left out."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    return {
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "labels": metadata.get("labels") or {},
        "annotations": {key: value for key, value in annotations.items() if "istio.io/" in key},
        "node": spec.get("nodeName", ""),
        "serviceAccount": spec.get("serviceAccountName", ""),
        "hostNetwork": bool(spec.get("hostNetwork")),
        "phase": status.get("phase", ""),
        "addresses": [one["ip"] for one in status.get("podIPs") or ()],
    }
