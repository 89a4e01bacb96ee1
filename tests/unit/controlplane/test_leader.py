"""The election of the one replica that writes, against the API on HTTP; times are a tenth of the real ones."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import web

from controlplane.ca.signing import SigningSource
from controlplane.leader import Election, Timing
from controlplane.metrics import Metrics
from meshapi import names
from meshkit import kube
from tests.support.fake_kubernetes import FakeKubernetes
from tests.support.waiting import until

FAST = Timing(duration_s=1.5, renew_s=1.0, retry_s=0.1)
NAMESPACE = names.DEFAULT_NAMESPACE


class Candidate:
    """One replica, its connection, and its actions in order."""

    def __init__(self, client: kube.Client, name: str, diary: list[str]) -> None:
        self.name = name
        self.diary = diary
        self.election = Election(client, namespace=NAMESPACE, name="lease", identity=name, timing=FAST)
        self.task = asyncio.create_task(self.election.run(self.duties))

    async def duties(self) -> None:
        self.diary.append(f"{self.name} begins")
        try:
            await asyncio.Event().wait()
        finally:
            self.diary.append(f"{self.name} ends")

    @property
    def works(self) -> bool:
        return [entry for entry in self.diary if entry.startswith(self.name)][-1:] == [f"{self.name} begins"]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def candidates(api: FakeKubernetes, *labels: str) -> AsyncIterator[list[Candidate]]:
    diary: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for label in labels:
            client = await stack.enter_async_context(kube.Client(kube.explicit(api.url)))
            found.append(Candidate(client, label, diary))
            stack.push_async_callback(found[-1].end)
        yield found


def holder(api: FakeKubernetes) -> str:
    lease = api.get("leases", "lease", NAMESPACE)
    return str(lease["spec"]["holderIdentity"]) if lease else ""


async def test_one_of_several_candidates_leads_and_keeps_leading() -> None:
    async with FakeKubernetes() as api, candidates(api, "a", "b", "c") as (first, *_):
        await until(lambda: len(first.diary) == 1)
        # Renewed for longer than a lease lasts.
        await until(lambda: _renewals(api) * FAST.retry_s > FAST.duration_s * 1.5, within_s=10)
        assert first.diary == [f"{holder(api)} begins"]
        lease = api.get("leases", "lease", NAMESPACE)
        assert lease is not None
        assert lease["spec"]["leaseTransitions"] == 0


def _renewals(api: FakeKubernetes) -> int:
    return sum(request.startswith("PUT") for request in api.requests)


async def test_a_clean_exit_hands_over_at_once() -> None:
    async with FakeKubernetes() as api, candidates(api, "a") as (first,):
        await until(lambda: first.works)
        async with candidates(api, "b") as (second,):
            await first.end()
            assert holder(api) == ""
            began = asyncio.get_running_loop().time()
            await until(lambda: second.works)
            assert asyncio.get_running_loop().time() - began < FAST.duration_s, "did not wait for the lease to run out"
            assert holder(api) == "b"
            lease = api.get("leases", "lease", NAMESPACE)
            assert lease is not None
            assert lease["spec"]["leaseTransitions"] == 1


async def test_a_lease_whose_holder_is_dead_is_taken_when_it_has_run_out() -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2099-01-01T00:00:00.000000Z"}
    async with FakeKubernetes() as api:
        api.put("leases", {"metadata": {"name": "lease"}, "spec": spec}, NAMESPACE)
        began = asyncio.get_running_loop().time()
        async with candidates(api, "a") as (first,):
            await until(lambda: first.works)
            assert asyncio.get_running_loop().time() - began >= FAST.duration_s, (
                "renewTime is another host's clock and is not trusted"
            )


async def test_a_leader_that_cannot_renew_stops_before_another_begins() -> None:
    async with FakeKubernetes() as api, candidates(api, "a") as (first,):
        await until(lambda: first.works)
        api.refuse["PUT /apis/coordination.k8s.io"] = 0
        await until(lambda: "a ends" in first.diary)
        assert holder(api) == "a", "the lease has not even run out"
        api.refuse.clear()
        await until(lambda: first.works)


async def test_a_leader_whose_lease_was_taken_stops_at_once() -> None:
    async with FakeKubernetes() as api, candidates(api, "a") as (first,):
        await until(lambda: first.works)
        lease = api.get("leases", "lease", NAMESPACE)
        assert lease is not None
        api.put("leases", {**lease, "spec": {**lease["spec"], "holderIdentity": "b"}}, NAMESPACE)
        await until(lambda: "a ends" in first.diary)


async def test_a_candidate_that_is_cancelled_as_it_gives_the_lease_back_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    releasing, released = asyncio.Event(), asyncio.Event()

    async def release(_: Election) -> None:
        releasing.set()
        await released.wait()

    monkeypatch.setattr(Election, "_release", release)
    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        election = Election(client, namespace=NAMESPACE, name="lease", identity="a", timing=FAST)
        task = asyncio.create_task(election.run(asyncio.Event().wait))
        await until(lambda: holder(api) == "a")
        lease = api.get("leases", "lease", NAMESPACE)
        assert lease is not None
        api.put("leases", {**lease, "spec": {**lease["spec"], "holderIdentity": "b"}}, NAMESPACE)
        await asyncio.wait_for(releasing.wait(), 5)
        released.set()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()


async def test_two_that_write_at_once_do_not_both_lead() -> None:
    """The API server detects the conflict by the resource version that both have read."""
    spec = {"holderIdentity": "", "leaseDurationSeconds": 1}
    async with FakeKubernetes() as api:
        api.put("leases", {"metadata": {"name": "lease"}, "spec": spec}, NAMESPACE)
        async with candidates(api, *"abcdefgh") as everyone:
            await until(lambda: everyone[0].diary)
            await until(lambda: _renewals(api) > len(everyone) * 2)
            # On a busy machine a leader may come too late to renew; the next one begins after it has ended.
            for begun, ended in itertools.pairwise(everyone[0].diary):
                assert begun.endswith(" ends") or ended == begun.replace(" begins", " ends")


async def test_duties_that_fail_end_the_candidate_and_give_the_lease_back() -> None:
    async def broken() -> None:
        raise RuntimeError("duties")

    async with FakeKubernetes() as api, kube.Client(kube.explicit(api.url)) as client:
        election = Election(client, namespace=NAMESPACE, name="lease", identity="a", timing=FAST)
        with pytest.raises(RuntimeError, match="duties"):
            await election.run(broken)
        assert holder(api) == ""


class _Meeting(FakeKubernetes):
    """An API that answers the first creation when all replicas have sent theirs."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self._barrier = asyncio.Barrier(replicas)

    async def _single(self, request: web.Request, plural: str, namespace: str, name: str) -> web.Response:
        if request.method == "POST" and plural == "secrets":
            await self._barrier.wait()
        return await super()._single(request, plural, namespace, name)


async def test_replicas_that_start_together_have_one_root() -> None:
    replicas = 4
    async with _Meeting(replicas) as api, contextlib.AsyncExitStack() as stack:
        roots = []
        for _ in range(replicas):
            client = await stack.enter_async_context(kube.Client(kube.explicit(api.url)))
            roots.append(SigningSource(client, namespace=NAMESPACE, life=timedelta(days=1), metrics=Metrics()))
        await asyncio.gather(*(root.load("cluster.local") for root in roots))
        made = [request for request in api.requests if request.startswith("POST")]
        assert len(made) == replicas, "each found no secret"
        assert len({root.current.roots_pem for root in roots}) == 1
