"""What wakes a stream, and the order in which it sends simultaneous changes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Set

from envoy.service.discovery.v3 import discovery_pb2

from meshapi import names
from meshkit.xds.delta import DeltaStream
from meshkit.xds.peer import SilentObserver
from meshkit.xds.source import Listener, Resource
from tests.support.waiting import until

Request = discovery_pb2.DeltaDiscoveryRequest


class Source:
    """Two types, ``a`` before ``b``; counts the lookups of resources."""

    announces_missing = True

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Resource]] = {"a": {}, "b": {}}
        self.listener: Listener | None = None
        self.lookups = 0

    def put(self, type_url: str, *names: str, version: str = "1") -> None:
        self.held[type_url].update({name: Resource(name, version, version.encode()) for name in names})

    def notify(self, type_url: str, *names: str) -> None:
        assert self.listener is not None
        self.listener(type_url, frozenset(names))

    def serves(self, type_url: str) -> bool:
        return type_url in self.held

    def lookup(self, type_url: str, name: str) -> Resource | None:
        self.lookups += 1
        return self.held[type_url].get(name)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        found = self.held[type_url].get(name)
        return [found] if found is not None else []

    def all(self, type_url: str) -> Collection[Resource]:
        return self.held[type_url].values()

    def watch(self, listener: Listener) -> Callable[[], None]:
        self.listener = listener
        return lambda: None

    def wanted(self, type_url: str, names: Set[str]) -> None:
        pass


class Conversation:
    """One stream, its client's requests, and the responses: type, names, removed names."""

    def __init__(self, source: Source, *requests: Request) -> None:
        self.responses: list[tuple[str, list[str], list[str]]] = []
        self.stream = DeltaStream(lambda _: source, SilentObserver(), "test")
        self.task = asyncio.create_task(self.stream.run(self._requests(requests), self._write))

    async def _requests(self, requests: tuple[Request, ...]) -> AsyncIterator[Request]:
        for request in requests:
            yield request
        await asyncio.Event().wait()

    async def _write(self, body: bytes) -> None:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
        names = sorted(item.name for item in response.resources)
        self.responses.append((response.type_url, names, list(response.removed_resources)))

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_change_without_a_subscription_wakes_no_stream() -> None:
    source = Source()
    source.put("a", "mine", *(f"other-{number}" for number in range(100)))
    talk = Conversation(source, Request(type_url="a", resource_names_subscribe=["mine"]))
    await until(lambda: talk.responses == [("a", ["mine"], [])])
    source.lookups = 0
    for number in range(100):
        source.put("a", f"other-{number}", version="2")
        source.notify("a", f"other-{number}")
        assert not talk.stream._wake.is_set()
    assert source.lookups == 100, "one lookup for each change"
    assert not talk.stream._changed
    source.put("a", "mine", version="2")
    source.notify("a", "mine")
    await until(lambda: len(talk.responses) == 2)
    await talk.end()


async def test_a_removal_is_sent_after_the_change_of_its_dependents() -> None:
    source = Source()
    source.put("a", "policy")
    source.put("b", "workload")
    talk = Conversation(source, Request(type_url="a"), Request(type_url="b"))
    await until(lambda: len(talk.responses) == 2)
    del talk.responses[:]
    source.put("a", "new policy")
    del source.held["a"]["policy"]
    source.put("b", "workload", version="2")
    source.notify("a", "new policy", "policy")
    source.notify("b", "workload")
    await until(lambda: len(talk.responses) == 3)
    assert talk.responses == [("a", ["new policy"], []), ("b", ["workload"], []), ("a", [], ["policy"])]
    await talk.end()


def envoys_source() -> Source:
    source = Source()
    source.held = {names.CLUSTER_TYPE: {}, names.ENDPOINT_TYPE: {}}
    source.put(names.CLUSTER_TYPE, "web", "shop", "external")
    source.put(names.ENDPOINT_TYPE, "web", "shop")
    return source


async def test_endpoints_are_sent_again_after_their_changed_cluster() -> None:
    source = envoys_source()
    endpoints = Request(type_url=names.ENDPOINT_TYPE, resource_names_subscribe=["web", "shop"])
    talk = Conversation(source, Request(type_url=names.CLUSTER_TYPE), endpoints)
    await until(lambda: len(talk.responses) == 2)
    del talk.responses[:]
    source.put(names.CLUSTER_TYPE, "web", "external", version="2")
    source.notify(names.CLUSTER_TYPE, "web", "external")
    await until(lambda: len(talk.responses) == 2)
    assert talk.responses == [(names.CLUSTER_TYPE, ["external", "web"], []), (names.ENDPOINT_TYPE, ["web"], [])]
    await talk.end()


async def test_endpoints_that_change_with_their_cluster_are_sent_once() -> None:
    source = envoys_source()
    endpoints = Request(type_url=names.ENDPOINT_TYPE, resource_names_subscribe=["web", "shop"])
    talk = Conversation(source, Request(type_url=names.CLUSTER_TYPE), endpoints)
    await until(lambda: len(talk.responses) == 2)
    del talk.responses[:]
    for type_url in (names.ENDPOINT_TYPE, names.CLUSTER_TYPE):
        source.put(type_url, "web", version="2")
        source.notify(type_url, "web")
    await until(lambda: len(talk.responses) == 2)
    await asyncio.sleep(0.01)
    assert talk.responses == [(names.CLUSTER_TYPE, ["web"], []), (names.ENDPOINT_TYPE, ["web"], [])]
    await talk.end()


async def test_endpoints_that_a_client_has_come_again_when_the_cluster_changed_while_it_was_away() -> None:
    source = envoys_source()
    source.put(names.CLUSTER_TYPE, "web", version="2")
    had = {"web": "1", "shop": "1"}
    talk = Conversation(
        source,
        Request(type_url=names.CLUSTER_TYPE, initial_resource_versions={**had, "external": "1"}),
        Request(type_url=names.ENDPOINT_TYPE, resource_names_subscribe=list(had), initial_resource_versions=had),
    )
    await until(lambda: (names.ENDPOINT_TYPE, ["web"], []) in talk.responses)
    assert (names.CLUSTER_TYPE, ["web"], []) in talk.responses
    await talk.end()
