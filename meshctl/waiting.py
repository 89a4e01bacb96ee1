"""Waiting until an installation is ready (or gone), saying each time what is still waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from rich.console import Console

from meshctl.components import Part, is_ready, part_of, pod_selector, readiness, reason
from meshctl.session import CommandError
from meshkit import kube
from meshkit.kube import kinds

_LOOK_EVERY_S: Final = 0.5

Pending = Callable[[], Awaitable[list[str]]]
"""Returns what is still waited for; nothing means done."""


async def until_done(pending: Pending, *, what: str, timeout_s: float) -> None:
    """Wait until nothing is pending. On a terminal one line is kept fresh; elsewhere every change is a line.

    Raises:
        CommandError: it took longer; the text says what is missing.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    began, last = time.monotonic(), ""
    with console.status(what) as status:
        while waiting := await pending():
            line = "waiting for " + "; ".join(waiting)
            passed_s = time.monotonic() - began
            if passed_s > timeout_s:
                raise CommandError(f"not {what} after {timeout_s:.0f} s: still {line}")
            status.update(line)
            if line != last and not console.is_terminal:
                console.print(f"{passed_s:6.1f} s  {line}")
            last = line
            await asyncio.sleep(_LOOK_EVERY_S)
    console.print(f"{time.monotonic() - began:6.1f} s  {what}")


async def unready(client: kube.Client, namespace: str) -> list[str]:
    """Return what an installation still lacks, part by part, with the reason of one pod."""
    pods = await client.items(kinds.POD, namespace, {"labelSelector": pod_selector()})
    lacking = []
    for part in Part:
        item = await client.find(part.kind, part.object_name, namespace)
        if item is None:
            lacking.append(f"{part.title} (no {part.kind.name} {part.object_name})")
            continue
        found = readiness(part, item)
        if found.complete:
            continue
        waiting = [pod for pod in pods if part_of(pod) is part and not is_ready(pod)]
        why = f", {waiting[0]['spec'].get('nodeName', 'no node')}: {reason(waiting[0])}" if waiting else ""
        lacking.append(f"{part.title} {found.ready}/{found.desired}{why}")
    return lacking


async def present(client: kube.Client, namespace: str, parts: tuple[Part, ...] = tuple(Part)) -> list[str]:
    """Return the pods of these parts that are still there, by node."""
    pods = await client.items(kinds.POD, namespace, {"labelSelector": pod_selector(*parts)})
    return [f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', 'no node')}" for pod in pods]
