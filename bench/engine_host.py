"""One node's tunnel as a process of its own: an engine, its pods, the mesh as a file says it. Ends with its input.

It is the part of ``culvert-ztunnel`` that moves bytes. Where workloads and certificates come from is left out: the file
has them, so that nothing but the tunnel is measured.
"""

import asyncio
import base64
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshapi.proto import engine_pb2
from meshengine import Engine, events

START_S = 10.0
NOWHERE = os.open(os.devnull, os.O_WRONLY)
"""Where the access log goes: what the host does for it is measured, not what a disk or a collector does."""


@dataclass(frozen=True)
class Served:
    """A pod of this node."""

    workload: dict[str, str]
    netns: str
    identity: str
    certificate: list[str]


@dataclass(frozen=True)
class Spec:
    """What the file says."""

    config: dict[str, Any]
    pods: list[Served]
    resources: list[list[str]]
    direct: str = ""

    @classmethod
    def read(cls, file: Path) -> "Spec":
        said = json.loads(file.read_text())
        return cls(said["config"], [Served(**pod) for pod in said["pods"]], said["resources"], said.get("direct", ""))


async def follow(engine: Engine, spec: Spec, started: asyncio.Queue[str]) -> None:
    certificates = {pod.identity: [part.encode() for part in pod.certificate] for pod in spec.pods}
    async for packed in events.batches(engine):
        batch = engine_pb2.EventBatch.FromString(packed)
        if batch.access_log:
            os.write(NOWHERE, batch.access_log)
        for portion in batch.access_log_records:
            os.write(NOWHERE, portion.records)
        for event in batch.events:
            match event.WhichOneof("kind"):
                case "certificate_wanted":
                    identity = event.certificate_wanted.identity
                    chain, key, roots = certificates[identity]
                    engine.set_trust_bundle(roots)
                    engine.set_certificate(identity, chain, key)
                case "workload_started":
                    started.put_nowait(event.workload_started.error)
                case "fatal":
                    sys.exit(f"engine: {event.fatal.reason}")
                case _:
                    pass


def serve(engine: Engine, spec: Spec) -> None:
    for type_url, name, body in spec.resources:
        engine.apply(type_url, [(name, base64.b64decode(body))], [])
    for pod in spec.pods:
        with Path(pod.netns).open("rb") as netns:
            engine.add_workload(engine_pb2.WorkloadRef(**pod.workload).SerializeToString(), netns.fileno())


async def main(spec: Spec) -> None:
    engine = Engine(engine_pb2.EngineConfig(**spec.config).SerializeToString())
    loop = asyncio.get_running_loop()
    started: asyncio.Queue[str] = asyncio.Queue()
    following = asyncio.create_task(follow(engine, spec, started))
    try:
        serve(engine, spec)
        for _ in spec.pods:
            if error := await asyncio.wait_for(started.get(), START_S):
                sys.exit(error)
        if spec.direct:
            engine.attach_direct(spec.direct)
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.buffer.read)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        engine.close()


if __name__ == "__main__":
    asyncio.run(main(Spec.read(Path(sys.argv[1]))))
