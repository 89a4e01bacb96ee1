"""The load generator (``bench/load/load.c``) inside a pod of ``tests.support.namespaced``."""

import asyncio
from asyncio.subprocess import PIPE, Process

from bench.session import build_load
from meshkit.linux import netns
from tests.support import namespaced


async def start(pod: namespaced.Pod, *arguments: str) -> Process:
    space = netns.path(pod.netns)
    return await asyncio.create_subprocess_exec(
        "nsenter", f"--net={space}", "--", str(build_load()), *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


async def serve(pod: namespaced.Pod, port: int) -> Process:
    serving = await start(pod, "serve", pod.ip, str(port))
    assert serving.stdout is not None
    await asyncio.wait_for(serving.stdout.readline(), 5)
    return serving
