"""``python -m bench.proxies '<json>'``: many delta discovery streams, as many nodes' proxies would open them.

Each subscribes to everything, acknowledges what it gets and remembers nothing, so that only the server is measured. A
line of input ends it; then it says when the first and the last stream heard of each pod whose name begins with
``churn-``.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from meshapi import names

STREAMS_A_CHANNEL = 50
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_CHURN = re.compile(rb"/churn-(\d+)")
_HEAD = re.compile(rb"\x22.(?P<type>[ -~]+?)\x2a.(?P<nonce>\d+)", re.DOTALL)
"""Type and nonce come first in our responses; the rest, maybe megabytes, is not decoded."""


@dataclass
class Heard:
    """When streams heard of what."""

    count: dict[int, int] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    synced: int = 0
    responses: int = 0

    def note(self, message: bytes) -> None:
        now = time.monotonic()
        self.responses += 1
        for number in {int(match) for match in _CHURN.findall(message)}:
            self.count[number] = self.count.get(number, 0) + 1
            self.first.setdefault(number, now)
            self.last[number] = now


async def follow(channel: grpc.aio.Channel, number: int, heard: Heard) -> None:
    outgoing: asyncio.Queue[discovery_pb2.DeltaDiscoveryRequest] = asyncio.Queue()
    node = base_pb2.Node(id=f"ztunnel~10.0.0.1~ztunnel-{number}.istio-system~istio-system.svc.cluster.local")
    for type_url in (names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE):
        outgoing.put_nowait(discovery_pb2.DeltaDiscoveryRequest(node=node, type_url=type_url))

    async def requests() -> AsyncIterator[discovery_pb2.DeltaDiscoveryRequest]:
        while True:
            yield await outgoing.get()

    call = channel.stream_stream(
        _METHOD, request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString, response_deserializer=bytes
    )(requests(), metadata=(("authorization", "Bearer bench"),))
    seen = set()
    async for message in call:
        head = _HEAD.search(message, 0, 200)
        assert head is not None, message[:200]
        type_url = head["type"].decode()
        if type_url not in seen:
            seen.add(type_url)
            heard.synced += type_url == names.ADDRESS_TYPE
        elif type_url == names.ADDRESS_TYPE:
            heard.note(message)
        outgoing.put_nowait(
            discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=head["nonce"].decode())
        )


async def main(spec: dict[str, Any]) -> None:
    credentials = grpc.ssl_channel_credentials(spec["roots"].encode())
    options = (
        ("grpc.ssl_target_name_override", spec["server_name"]),
        ("grpc.max_receive_message_length", 200 << 20),
        ("grpc.use_local_subchannel_pool", 1),
    )
    heard, streams = Heard(), int(spec["streams"])
    channels = [
        grpc.aio.secure_channel(spec["address"], credentials, options) for _ in range(-(-streams // STREAMS_A_CHANNEL))
    ]
    tasks = [asyncio.create_task(follow(channels[number % len(channels)], number, heard)) for number in range(streams)]
    stop = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while heard.synced < streams:
        await asyncio.sleep(0.2)
        failed = next((task for task in tasks if task.done()), None)
        if failed is not None:
            print(f"bench: a stream ended: {failed.exception()!r}", file=sys.stderr, flush=True)
            os._exit(1)  # a thread still waits for input
    print("ready", flush=True)
    await stop
    for task in tasks:
        task.cancel()
    print(json.dumps({"count": heard.count, "first": heard.first, "last": heard.last, "responses": heard.responses}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
