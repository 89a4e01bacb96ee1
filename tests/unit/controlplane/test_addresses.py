"""Addresses for hosts of ServiceEntries: unique to a host, kept as long as possible, then freed."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from controlplane.addresses.allocator import Allocator
from controlplane.addresses.pool import RANGES, Pool
from meshapi import names
from meshapi.resources import base
from meshapi.resources.networking import ServiceEntry
from meshkit import kube
from meshkit.kube import Informer, kinds
from tests.support.fake_kubernetes import FakeKubernetes, Json
from tests.support.kubernetes_objects import service_entry
from tests.support.waiting import until

V4, V6 = RANGES
STEP = st.tuples(st.integers(0, 4), st.lists(st.sampled_from(["a.test", "b.test", "c.test"]), unique=True))


@given(st.lists(STEP, max_size=30))
def test_no_address_has_two_owners_and_what_is_wanted_stays(steps: list[tuple[int, list[str]]]) -> None:
    pool = Pool()
    now: dict[int, list[tuple[str, str]]] = {}
    for number, hosts in steps:
        before = dict(map(reversed, now.get(number, [])))  # type: ignore[arg-type]
        assigned = now[number] = pool.assign(("shop", str(number)), hosts)
        for host in hosts:
            mine = [ipaddress.ip_address(address) for address, owner in assigned if owner == host]
            assert len(mine) == 2
            assert mine[0] in V4
            assert mine[1] in V6
            if host in before:
                assert before[host] in {str(address) for address in mine}
        everything = [address for held in now.values() for address, _ in held]
        assert len(everything) == len(set(everything))


def test_addresses_that_users_wrote_are_never_given() -> None:
    key, other = ("shop", "a"), ("shop", "b")
    (first, _), _ = Pool().assign(key, ["a.test"])
    pool = Pool()
    pool.hold(other, [], own=[first, "240.240.0.0/24"])
    assert first not in [address for address, _ in pool.assign(key, ["a.test"])]


def test_a_released_address_is_free_again() -> None:
    pool = Pool()
    before = pool.assign(("shop", "a"), ["a.test"])
    pool.release(("shop", "a"))
    assert pool.assign(("shop", "a"), ["a.test"]) == before
    assert pool.held(("shop", "b")) == []


class Plane:
    """What a replica has of it; ``lead`` runs the duties of a leader."""

    def __init__(self, client: kube.Client) -> None:
        self.informer: Informer[ServiceEntry] = Informer(client, kinds.SERVICE_ENTRY, read)
        self.allocator = Allocator(client, self.informer)

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.informer.run()), tasks.create_task(self.allocator.run())]
            yield
            for task in running:
                task.cancel()


def read(item: Json) -> ServiceEntry:
    return base.read(ServiceEntry, item)


@contextlib.asynccontextmanager
async def leading(api: FakeKubernetes) -> AsyncIterator[None]:
    async with kube.Client(kube.explicit(api.url)) as client, Plane(client).leading():
        yield


def given_to(api: FakeKubernetes, name: str) -> dict[str, list[str]]:
    entry = api.get("serviceentries", name, "shop")
    found: dict[str, list[str]] = {}
    for item in ((entry or {}).get("status") or {}).get("addresses", []):
        found.setdefault(item["host"], []).append(item["value"])
    return found


def put(api: FakeKubernetes, name: str, *hosts: str, labels: dict[str, str] | None = None, **spec: object) -> Json:
    item = service_entry(name, hosts=list(hosts), **{"resolution": "DNS", **spec})
    item["metadata"]["labels"] = labels or {}
    return api.put("serviceentries", item, "shop")


async def test_entries_get_addresses_and_keep_them_over_a_change_of_leader() -> None:
    async with FakeKubernetes() as api:
        put(api, "old", "a.test", "b.test")
        async with leading(api):
            await until(lambda: set(given_to(api, "old")) == {"a.test", "b.test"})
            put(api, "new", "c.test", "*.wild.test")
            await until(lambda: set(given_to(api, "new")) == {"c.test"})
            first = given_to(api, "old") | given_to(api, "new")
        async with leading(api):
            put(api, "newest", "d.test")
            await until(lambda: given_to(api, "newest"))
        assert given_to(api, "old") | given_to(api, "new") == first
        everything = [address for held in (*first.values(), *given_to(api, "newest").values()) for address in held]
        assert len(set(everything)) == len(everything) == 8


async def test_an_entry_that_opts_out_gets_no_address_and_loses_its_own() -> None:
    async with FakeKubernetes() as api, leading(api):
        put(api, "own", "own.test", addresses=["10.9.9.9"])
        put(api, "none", "none.test", resolution="NONE")
        put(api, "out", "out.test", labels={names.AUTO_ALLOCATE_LABEL: "false"})
        item = put(api, "a", "a.test")
        await until(lambda: given_to(api, "a"))
        assert [given_to(api, name) for name in ("own", "none", "out")] == [{}, {}, {}]
        held = api.get("serviceentries", "a", "shop")
        assert held is not None
        api.put(
            "serviceentries", {**held, "metadata": {**item["metadata"], "labels": {names.AUTO_ALLOCATE_LABEL: "False"}}}
        )
        await until(lambda: not given_to(api, "a"))


async def test_the_addresses_of_a_deleted_entry_are_free_again() -> None:
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        plane = Plane(client)
        async with plane.leading():
            put(api, "a", "a.test")
            await until(lambda: given_to(api, "a"))
            freed = set(given_to(api, "a")["a.test"])
            api.remove("serviceentries", "a", "shop")
            await until(lambda: not plane.allocator._pool.held(("shop", "a")))
            # Another object may now claim one of them explicitly.
            item = put(api, "b", "b.test")
            item["status"] = {"addresses": [{"value": address, "host": "b.test"} for address in freed]}
            api.put("serviceentries", item)
            put(api, "c", "c.test")
            await until(lambda: given_to(api, "c"))
            assert set(given_to(api, "b")["b.test"]) == freed


async def test_the_older_of_two_entries_with_one_address_keeps_it() -> None:
    """The state that a leader may leave which had not noticed that it lost the lease."""
    async with FakeKubernetes() as api:
        for name, created in (("a", "2026-02-01T00:00:00Z"), ("b", "2026-01-01T00:00:00Z")):
            item = put(api, name, f"{name}.test")
            item["metadata"]["creationTimestamp"] = created
            item["status"] = {"addresses": [{"value": "240.240.0.7", "host": f"{name}.test"}]}
            api.put("serviceentries", item)
        async with leading(api):
            await until(lambda: len(given_to(api, "a").get("a.test", [])) == len(given_to(api, "b")["b.test"]) == 2)
            assert "240.240.0.7" in given_to(api, "b")["b.test"]
            assert "240.240.0.7" not in given_to(api, "a")["a.test"]


async def test_a_conflict_is_resolved_by_looking_again() -> None:
    async with FakeKubernetes() as api:
        api.refuse["PATCH /apis/networking.istio.io"] = 409
        async with leading(api):
            put(api, "a", "a.test")
            await until(lambda: any(request.startswith("PATCH") for request in api.requests))
            assert not given_to(api, "a")
            api.refuse.clear()
            await until(lambda: given_to(api, "a"))


async def test_the_kind_may_be_installed_later() -> None:
    async with FakeKubernetes() as api:
        api.absent.add("serviceentries")
        async with kube.Client(kube.explicit(api.url)) as client:
            plane = Plane(client)
            plane.informer._absent_retry_s = 0.05
            async with plane.leading():
                await until(lambda: plane.informer.synced)
                api.absent.clear()
                put(api, "a", "a.test")
                await until(lambda: given_to(api, "a"))
