"""Admin pages and metrics of Culvert's processes, reached through the API server. Nothing here decides anything."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from meshapi import names
from meshctl.components import Part, is_ready, part_of, pod_selector
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import Json, kinds

_TIMEOUT: Final = aiohttp.ClientTimeout(total=20.0)
METRICS_PORTS: Final[Mapping[Part, int]] = {
    Part.CONTROL_PLANE: names.CONTROL_PLANE_METRICS_PORT,
    Part.NODE_AGENT: names.NODE_AGENT_METRICS_PORT,
    Part.ZTUNNEL: names.METRICS_PORT,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Process:
    """A pod of ours.

    Attributes:
        part: what it is.
        pod: its name.
        node: where it runs; empty when it is not scheduled.
        ready: whether it is ready.
        item: the whole object.
    """

    part: Part
    namespace: str
    pod: str
    node: str
    ready: bool
    item: Json

    @property
    def draining(self) -> bool:
        """Whether the pod terminates: a ztunnel that still carries connections, or any pod on its way out."""
        return bool(self.item["metadata"].get("deletionTimestamp"))


async def processes(client: kube.Client, namespace: str, *parts: Part) -> list[Process]:
    """Return the pods of an installation, by node."""
    selector = {"labelSelector": pod_selector(*parts)}
    found = []
    for item in await client.items(kinds.POD, namespace, selector):
        part = part_of(item)
        if part is not None:
            node = item["spec"].get("nodeName", "")
            found.append(Process(part, namespace, item["metadata"]["name"], node, is_ready(item), item))
    return sorted(found, key=lambda one: (one.part.title, one.node, one.pod))


async def page(client: kube.Client, process: Process, port: int, path: str, *, method: str = "GET") -> bytes:
    """Return a page of a process. Raises ``CommandError``."""
    return await page_of(client, kube.Port(process.namespace, process.pod, port), path, method=method)


async def page_of(client: kube.Client, where: kube.Port, path: str, *, method: str = "GET") -> bytes:
    """Return a page that a pod serves.

    Raises:
        CommandError: it does not answer.
    """
    try:
        async with (
            kube.forwarded(client, where) as local,
            aiohttp.ClientSession(timeout=_TIMEOUT) as web,
            web.request(method, f"http://127.0.0.1:{local}{path}") as answer,
        ):
            if answer.status != 200:
                raise CommandError(f"pod {where.pod} answers {answer.status} to {path}")
            return await answer.read()
    except (aiohttp.ClientError, kube.KubeError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise CommandError(f"pod {where.pod} does not answer on port {where.number}: {reason}") from error


async def set_log_level(client: kube.Client, process: Process, level: str) -> str:
    """Set how much a ztunnel logs; return what it says. Raises ``CommandError``."""
    path = f"/logging?level={level}"
    return (await page(client, process, names.ZTUNNEL_ADMIN_PORT, path, method="POST")).decode()


async def config_dump(client: kube.Client, process: Process) -> Json:
    """Return all that a ztunnel knows. Raises ``CommandError``."""
    answer: Json = json.loads(await page(client, process, names.ZTUNNEL_ADMIN_PORT, "/config_dump"))
    return answer


async def verdict(client: kube.Client, process: Process, question: Mapping[str, str]) -> Json:
    """Return what a ztunnel's policies say of a connection to a pod of its node. Raises ``CommandError``.

    Args:
        client: of the cluster.
        process: the ztunnel.
        question: parameters of its page ``/authorize``.
    """
    path = f"/authorize?{urlencode(question)}"
    answer: Json = json.loads(await page(client, process, names.ZTUNNEL_ADMIN_PORT, path))
    return answer


async def streams(client: kube.Client, process: Process) -> list[Json]:
    """Return the proxies that are connected to a control plane. Raises ``CommandError``."""
    answer: list[Json] = json.loads(await page(client, process, names.CONTROL_PLANE_ADMIN_PORT, "/debug/syncz"))
    return answer


async def pods(client: kube.Client, process: Process) -> list[Json]:
    """Return the pods of a node agent's node, with their states. Raises ``CommandError``."""
    answer: list[Json] = json.loads(await page(client, process, names.NODE_AGENT_METRICS_PORT, "/debug/pods"))
    return [{"node": process.node, **one} for one in answer]


async def metrics(client: kube.Client, process: Process) -> list[Sample]:
    """Return the metrics of a process. Raises ``CommandError``."""
    text = (await page(client, process, METRICS_PORTS[process.part], "/metrics")).decode()
    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def version(samples: Iterable[Sample]) -> str:
    """Return the version that a process says it is."""
    return next((one.labels.get("tag", "") for one in samples if one.name == "istio_build"), "")


async def each(calls: Iterable[Any]) -> list[Any]:
    """Run calls side by side, not all at once: each is a connection through the API server."""
    limit = asyncio.Semaphore(16)

    async def one(call: Any) -> Any:
        async with limit:
            try:
                return await call
            except CommandError as error:
                return error

    return list(await asyncio.gather(*(one(call) for call in calls)))
