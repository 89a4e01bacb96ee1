"""What proxies refuse reaches the status of the objects, from whichever replica they are connected to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

from controlplane.graph.collection import Source
from controlplane.graph.scheduler import Graph
from controlplane.inputs.rejections import Name, Rejections, name_in
from controlplane.inputs.sources import Rejection
from controlplane.status.shared_rejections import SharedRejections
from meshapi import names
from meshkit import kube
from meshkit.xds.peer import Peer
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.kubernetes_objects import policy, service
from tests.support.running_control_plane import Recorder, Running
from tests.support.waiting import until

WITHIN_S = 1.0
POLICY, SERVICE = "shop/p", "shop/web.shop.svc.cluster.local"


def peer(name: str) -> Peer:
    result = Peer(identity="istio-system/ztunnel", connected_at=0.0, node_id=f"ztunnel~10.0.0.1~{name}.istio-system~x")
    result.subscriptions["t"] = None
    return result


class Kept:
    """One replica's rejections."""

    def __init__(self) -> None:
        self.source: Source[Name, Rejection] = Source(Graph(), "rejections")
        self.touched = 0
        self.rejections = Rejections(self.source, self._touch)

    def _touch(self, _: str) -> None:
        self.touched += 1

    def refuses(self, who: Peer, **reasons: str) -> None:
        self.rejections.put_peer(who, "t", reasons)


def test_the_first_proxy_by_name_is_reported_and_that_there_are_others() -> None:
    kept, a, b = Kept(), peer("a"), peer("b")
    kept.refuses(b, x="bad b")
    assert kept.source.find(("t", "x")) == Rejection("b.istio-system", "bad b", others=False)
    kept.refuses(a, x="bad a", y="bad y")
    assert kept.source.find(("t", "x")) == Rejection("a.istio-system", "bad a", others=True)
    touched = kept.touched
    kept.refuses(a, x="bad a", y="bad y")
    assert kept.touched == touched, "nothing has changed"
    kept.refuses(a, y="bad y")
    assert kept.source.find(("t", "x")) == Rejection("b.istio-system", "bad b", others=False)
    for one in (a, b):
        kept.rejections.drop_peer(one)
    assert len(kept.source) == 0
    assert not kept.rejections._by_name
    assert not kept.rejections._own


def test_what_proxies_of_two_gateways_refuse_is_kept_apart() -> None:
    source: Source[Name, Rejection] = Source(Graph(), "rejections")
    gateways = {"web-1.shop": ("shop", "web"), "api-1.shop": ("shop", "api"), "ztunnel-1.istio-system": None}
    rejections = Rejections(source, lambda _: None, lambda who: gateways[who.name])
    for name in ("web-1.shop", "ztunnel-1.istio-system"):
        who = Peer(identity="x", connected_at=0.0, node_id=f"router~10.0.0.1~{name}~x")
        who.subscriptions["t"] = None
        rejections.put_peer(who, "t", {"0.0.0.0_80": "bad"})
    assert set(source.keys()) == {("t", "shop/web|0.0.0.0_80"), ("t", "0.0.0.0_80")}
    assert name_in(("shop", "web"), "0.0.0.0_80") == "shop/web|0.0.0.0_80"


class Replica(Kept):
    """A replica that shares its rejections."""

    def __init__(self, client: kube.Client, name: str) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.shared = SharedRejections(
            client, self.rejections, namespace=names.DEFAULT_NAMESPACE, instance=name, clock=lambda: self.now
        )

    def seen(self) -> Mapping[Name, Rejection]:
        return dict(self.source.items())


@contextlib.asynccontextmanager
async def replicas(api: FakeKubernetes, *instances: str) -> AsyncIterator[list[Replica]]:
    async with kube.Client(kube.explicit(api.url)) as client, asyncio.TaskGroup() as tasks:
        made = [Replica(client, name) for name in instances]
        running = [run for one in made for run in (one.shared.run(), one.shared.informer.run())]
        running_tasks = [tasks.create_task(one) for one in running]
        yield made
        for task in running_tasks:
            task.cancel()


async def test_replicas_see_what_the_proxies_of_the_others_refuse_until_it_is_accepted() -> None:
    async with FakeKubernetes() as api, replicas(api, "one", "two") as (one, two):
        client = peer("a")
        one.refuses(client, x="bad")
        await until(lambda: two.seen() == {("t", "x"): Rejection("a.istio-system", "bad", others=False)})
        two.refuses(peer("b"), y="worse")
        await until(lambda: one.seen().keys() == two.seen().keys() == {("t", "x"), ("t", "y")})
        one.refuses(client)
        await until(lambda: two.seen().keys() == {("t", "y")})


async def test_what_a_dead_replica_has_published_does_not_count() -> None:
    async with FakeKubernetes() as api:
        async with replicas(api, "one") as (one,):
            one.refuses(peer("a"), x="bad")
            await until(lambda: api.get("configmaps", names.REJECTIONS_CONFIGMAP, names.DEFAULT_NAMESPACE))
        async with replicas(api, "two") as (two,):
            await until(two.seen)
            two.now += timedelta(minutes=10)
            two.refuses(peer("b"), y="worse")
            await until(lambda: two.seen().keys() == {("t", "y")})


async def test_a_refused_policy_says_so_on_its_status_and_a_refused_service_in_an_event(running: Running) -> None:
    refusing = Recorder()
    async with running.subscriber(refusing) as subscriber:
        await asyncio.wait_for(subscriber.wait_received(), 5)
        refusing.refuse.update({POLICY: f"{POLICY}: too many rules", SERVICE: f"{SERVICE}: no such mode"})
        running.api.put("authorizationpolicies", policy("p"))
        running.api.put("services", service("web"))

        def reason() -> str:
            item = running.api.get("authorizationpolicies", "p", "shop") or {}
            conditions = (item.get("status") or {}).get("conditions") or [{"reason": ""}]
            return str(conditions[0]["reason"])

        def notes() -> list[str]:
            events = running.api.objects.get("events", {}).values()
            return [event["note"] for event in events if event["regarding"]["name"] == "web"]

        await until(lambda: reason() == "RejectedByProxy", within_s=WITHIN_S)
        await until(notes, within_s=WITHIN_S)
        [note] = notes()
        assert f"{SERVICE}: rejected by ztunnel-1.istio-system: " in note
        assert "no such mode" in note
        refusing.refuse.clear()
        running.api.put("authorizationpolicies", policy("p", action="DENY"))
        await until(lambda: reason() == "Accepted", within_s=WITHIN_S)
