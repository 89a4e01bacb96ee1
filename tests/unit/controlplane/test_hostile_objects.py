"""Threat ``hostile-objects``: control-plane DoS by config: what one object may cost, and that others are hardly
affected.

An object has at most 1.5 MB (etcd). Where the work for one grows with its size alone, that is the bound; where it is a
product of what the object lists, there is a limit. Endless nesting: ``tests/unit/meshkit/test_nesting.py``.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from controlplane.addresses.pool import Pool
from controlplane.ambient import service_entries
from controlplane.ambient.model import create
from controlplane.graph.derived import Derived
from controlplane.inputs.mesh import MeshContext
from controlplane.status import conditions
from meshapi import names
from meshapi.errors import InvalidResource
from meshapi.proto import authorization_pb2, engine_pb2
from meshapi.proto.workload_pb2 import Address
from meshapi.resources import base, security
from meshapi.resources.networking import ServiceEntry
from meshengine import ConfigRejected, Engine
from tests.support import kubernetes_objects as objects
from tests.support.ambient_model import put, remove
from tests.support.running_control_plane import Recorder, Running
from tests.support.waiting import until

Json = dict[str, Any]

FEW_S = 8.0
"""Seconds of this thread; the largest objects below take 0.3 to 3."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.thread_time()
    yield
    assert time.thread_time() - began < seconds


def spread(count: int, network: int) -> list[str]:
    return [f"{network}.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]


def sources(source: Callable[[int], Json], count: int) -> list[Json]:
    return [{"source": source(number)} for number in range(count)]


LARGE = {
    "principals": [{"from": [{"source": {"principals": [f"td/ns/a/sa/{n}" for n in range(75_000)]}}]}],
    "addresses": [{"from": [{"source": {"ipBlocks": spread(90_000, 10)}}]}],
    "ports": [{"to": [{"operation": {"ports": [str(1 + n % 65_535) for n in range(150_000)]}}]}],
    "alternatives": [{"from": sources(lambda n: {"namespaces": [str(n)]}, 35_000)}],
    "rules": [
        {"from": sources(lambda n: {"namespaces": [str(n)]}, 1), "to": [{"operation": {"methods": ["GET"]}}]}
        for _ in range(10_000)
    ],
    "conditions": [{"when": [{"key": "request.headers[x]", "values": [str(n)]} for n in range(25_000)]}],
    "one-long-name": [{"from": [{"source": {"serviceAccounts": ["a" * 1_400_000]}}]}],
    "unknown-fields": [{"from": [{"source": {"namespaces": ["a"]}}], **{f"x{n}": 1 for n in range(100_000)}}],
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_a_policy_as_large_as_an_object_costs_seconds_at_most(kind: str) -> None:
    item = objects.policy("p", action="DENY", rules=LARGE[kind])
    assert 1_000_000 < len(json.dumps(item, separators=(",", ":"))) < 1_500_000 or kind in {"rules", "conditions"}
    with within(FEW_S):
        policy = base.read(security.AuthorizationPolicy, item)
        model = create(MeshContext())
        put(model, policy)
        made = model.flush()[names.AUTHORIZATION_TYPE]["shop/p"]
        made_policy = model.policies.find(("shop", "p"))
        assert made_policy is not None
        condition = conditions.of_policy(policy, MeshContext(), made_policy.problems)
    assert condition is not None
    assert len(condition.message) < 10_000
    engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    with within(FEW_S):
        engine.apply(names.AUTHORIZATION_TYPE, [("shop/p", made.body)] if made else [], [])
    engine.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("principals", ""),
        ("serviceAccounts", "a" * 1_000_000 + "!"),
        ("serviceAccounts", "-a" * 500_000 + "/"),
        ("ipBlocks", "1" * 1_000_000),
        ("ipBlocks", "10.0.0.0/" + "0" * 1_000_000),
    ],
)
def test_a_value_as_large_as_an_object_is_refused_in_a_sentence(field: str, value: str) -> None:
    item = objects.policy(
        "p", rules=[{"from": [{"source": {field: ["10.0.0.1" if field == "ipBlocks" else "a", value]}}]}]
    )
    with within(FEW_S), pytest.raises(InvalidResource) as refused:
        base.read(security.AuthorizationPolicy, item)
    text = str(refused.value)
    assert text.startswith(f"AuthorizationPolicy shop/p: spec.rules[0].from[0].source.{field}[1]: ")
    assert len(text) < 1_000
    assert "write" in text


def entry(*, hosts: int = 1, addresses: int = 0, ports: int = 1, endpoints: int = 0, **spec: object) -> Json:
    given = {
        "addresses": spread(addresses, 11),
        "ports": [{"number": 1 + number, "name": f"p{number}"} for number in range(ports)],
        "endpoints": [{"address": address} for address in spread(endpoints, 10)],
        "resolution": "STATIC",
    }
    return objects.service_entry("e", hosts=[f"h{number}.io" for number in range(hosts)], **(given | spec))


@pytest.mark.parametrize(
    "size",
    [
        {"hosts": 10_000},
        {"endpoints": 10_000},
        {"addresses": 50_000},
        {"ports": 20_000},
        {"hosts": 700, "addresses": 700},
        {"hosts": 500, "endpoints": 490},
        {"hosts": 256, "endpoints": 256, "ports": 6},
    ],
)
def test_an_entry_within_the_limits_costs_seconds_at_most(size: dict[str, int]) -> None:
    with within(FEW_S):
        model = create(MeshContext())
        put(model, base.read(ServiceEntry, entry(**size)))
        made = model.flush()[names.ADDRESS_TYPE]
    assert model.graph.take_failures() == []
    assert len(made) == size.get("hosts", 1) + size.get("endpoints", 0)


@pytest.mark.parametrize(
    ("size", "named"),
    [
        ({"hosts": 1_000, "addresses": 1_000}, "hosts, addresses and ports make 1,002,000 combinations"),
        ({"hosts": 20_000, "ports": 1_000}, "hosts, addresses and ports make 20,020,000 combinations"),
        ({"hosts": 1_000, "endpoints": 1_000}, "hosts, endpoints and ports make 2,000,000 combinations"),
        (
            {"hosts": 100, "endpoints": 1_000, "ports": 1_000},
            "hosts, endpoints and ports make 100,100,000 combinations",
        ),
        (
            {"hosts": 1_000, "ports": 100, "workloadSelector": {"labels": {"app": "db"}}},
            "hosts and ports of each chosen workload make 101,000 combinations, at most 10,000 are taken",
        ),
    ],
)
def test_an_entry_whose_product_is_beyond_is_refused_by_name_field_and_fix(size: dict[str, Any], named: str) -> None:
    """23 kB of a thousand hosts and addresses cost 7 seconds, and 1.4 MB would have cost days."""
    with within(FEW_S), pytest.raises(InvalidResource) as refused:
        base.read(ServiceEntry, entry(**size))
    assert str(refused.value).startswith(f"ServiceEntry shop/e: spec: {named}")
    assert str(refused.value).endswith("divide the entry")


_OF_WAYPOINTS = ("entries in need", "attached entries", "served entries")


def test_a_host_that_hundreds_claim_costs_each_of_them_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in computed values and translated hosts, because time depends on the machine."""
    hosts = [f"h{number}.io" for number in range(200)]
    model = create(MeshContext())
    entries = [
        base.read(ServiceEntry, objects.service_entry(f"e{number}", hosts=hosts, created=f"2026-01-{number:05}"))
        for number in range(300)
    ]
    computed, translated = [], []
    compute, translate = Derived.compute, service_entries.translate_hosts

    def counted_compute(derived: Derived[Any, Any], key: Any) -> None:
        computed.append((derived.name, key))
        compute(derived, key)

    def counted_translate(entry: ServiceEntry, own: Sequence[str], *args: Any, **options: Any) -> Any:
        translated.extend(own)
        return translate(entry, own, *args, **options)

    monkeypatch.setattr(Derived, "compute", counted_compute)
    monkeypatch.setattr(service_entries, "translate_hosts", counted_translate)
    put(model, *reversed(entries))
    assert len(model.flush()[names.ADDRESS_TYPE]) == len(hosts)
    each = len({name for name, _ in computed})
    assert len(computed) == each * len(entries), "each entry once in each collection"
    assert len(translated) == len(hosts), "only the oldest has any"
    remove(model, *entries[:-1])
    assert len(model.all(names.ADDRESS_TYPE)) == len(hosts)
    model.flush()
    # Which waypoint the last one uses has nothing to do with whose the hosts are.
    computed.extend((name, entries[-1].key) for name in _OF_WAYPOINTS)
    assert len(computed) == 2 * each * len(entries), "each entry once more: removed, or the one that has the hosts now"
    assert set(computed[each * len(entries) :]) == set(computed)
    assert len(translated) == 2 * len(hosts)
    [last] = {Address.FromString(one.body).service.name for one in model.all(names.ADDRESS_TYPE).values()}
    assert last == "e299"
    assert model.graph.take_failures() == []


def test_a_pool_of_addresses_that_is_full_costs_nothing_more() -> None:
    """Each further host searched all addresses of the family: two entries kept the leader busy for an hour."""
    pool = Pool()
    with within(30):
        given = pool.assign(("shop", "all"), [f"h{number}" for number in range(65_600)])
        pool.assign(("shop", "more"), [f"h{number}" for number in range(10_000)])
    assert sum("." in address for address, _ in given) == 65_534
    assert all(":" in address for address, _ in pool.held(("shop", "more")))
    pool.release(("shop", "all"))
    assert {"." in address for address, _ in pool.assign(("shop", "more"), ["h1"])} == {True, False}


def test_a_message_nested_without_end_is_refused_by_the_engine() -> None:
    """Unknown groups in groups (prost RUSTSEC-2020-0002)."""
    engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    good = authorization_pb2.Authorization(name="good", namespace="shop").SerializeToString()
    for type_url in (names.ADDRESS_TYPE, names.AUTHORIZATION_TYPE):
        with pytest.raises(ConfigRejected, match="recursion"):
            engine.apply(type_url, [("bad", b"\xfb\x07" * 500_000)], [])
    with pytest.raises(ConfigRejected):
        engine.apply(names.AUTHORIZATION_TYPE, [("bad", b"\xfb\x07" * 1000), ("shop/good", good)], [])
    assert "good" in engine.dump("policies")
    engine.close()


async def test_one_bad_object_never_blocks_the_rest(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    seen = Recorder()
    async with running.subscriber(seen) as subscriber:
        await subscriber.wait_received()
        running.api.put("serviceentries", objects.service_entry("e", hosts=["good.io"]))
        await until(lambda: "shop/good.io" in seen.held)
        running.api.put("serviceentries", entry(hosts=1_000, addresses=1_000))
        running.api.put("serviceentries", entry(hosts=5_000) | {"metadata": {"name": "large", "namespace": "shop"}})
        running.api.put("authorizationpolicies", objects.policy("rules", action="DENY", rules=LARGE["rules"]))
        running.api.put(
            "authorizationpolicies", objects.policy("bad", rules=[{"from": [{"source": {"namespaces": [""] * 9_999}}]}])
        )
        running.api.put("pods", objects.pod("late", ip="10.0.0.77"))
        await until(lambda: "Kubernetes//Pod/shop/late" in seen.held, within_s=20)
        await until(lambda: {"shop/rules", "shop/bad", "shop/h4999.io"} <= seen.held.keys(), within_s=20)
        assert "shop/good.io" in seen.held, "the last good form stays"
        assert "shop/h999.io" in seen.held, "of the large one"
    logged = "".join(capfd.readouterr())
    assert "ServiceEntry shop/e: spec: hosts, addresses and ports make" in logged
    assert "AuthorizationPolicy shop/bad: spec.rules[0].from[0].source.namespaces[0]: is empty" in logged
    assert "spec.rules[0].to[0].operation.methods needs a waypoint" in logged
    assert "and 19990 more" in logged
    assert max(map(len, logged.splitlines())) < 5_000
