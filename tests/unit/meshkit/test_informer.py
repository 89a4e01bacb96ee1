"""Informers against list and watch on HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshapi.errors import DataError, InvalidResource
from meshapi.resources import base, core
from meshkit import kube
from meshkit.kube import Client, Informer, Key, Selection, errors, kinds, objects
from meshkit.tasks import Backoff
from tests.support.fake_kubernetes import FakeKubernetes, token_user
from tests.support.kubernetes_objects import pod
from tests.support.waiting import until


def read(item: kube.Json) -> core.Pod:
    return base.read(core.Pod, item)


@contextlib.asynccontextmanager
async def informing(api: FakeKubernetes, **options: Any) -> AsyncIterator[tuple[Informer[core.Pod], list[str]]]:
    events: list[str] = []

    def handler(old: core.Pod | None, new: core.Pod | None) -> None:
        item = new or old
        assert item is not None
        verb = "added" if old is None else "removed" if new is None else "changed"
        events.append(f"{verb} {item.metadata.name}")

    async with Client(kube.explicit(api.url)) as client:
        options.setdefault("backoff", Backoff(first_s=0.01, cap_s=0.05))
        informer = Informer(client, kinds.POD, read, **options)
        informer.add_handler(handler)
        task = asyncio.create_task(informer.run())
        try:
            yield informer, events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_lists_in_pages_then_follows_changes() -> None:
    async with FakeKubernetes() as api:
        for number in range(5):
            api.put("pods", pod(f"p{number}"))
        async with informing(api) as (informer, events):
            await asyncio.wait_for(informer.wait_synced(), 5)
            assert len(informer) == 5
            api.put("pods", pod("p1", ready=False))
            api.put("pods", pod("p1", ready=False))  # nothing that we read has changed
            api.remove("pods", "p2", "shop")
            await until(lambda: events[5:] == ["changed p1", "removed p2"])
            assert informer.find("p2", "shop") is None


async def test_broken_watch_resumes_without_a_new_list() -> None:
    async with FakeKubernetes() as api:
        api.put("pods", pod("a"))
        async with informing(api) as (informer, events):
            await asyncio.wait_for(informer.wait_synced(), 5)
            await until(lambda: api._watches)
            api.break_watches()
            api.put("pods", pod("b"))
            await until(lambda: events == ["added a", "added b"])
            assert api.lists == 1


async def test_too_old_version_lists_again_and_reports_what_went() -> None:
    async with FakeKubernetes() as api:
        api.page_size = 100
        api.put("pods", pod("a"))
        api.put("pods", pod("b"))
        async with informing(api) as (informer, events):
            await asyncio.wait_for(informer.wait_synced(), 5)
            await until(lambda: api._watches)
            for watch in list(api._watches):
                api._watches.discard(watch)
            del api.objects["pods"]["shop", "a"]
            api.put("pods", pod("c"))
            api.expire()
            await until(lambda: sorted(events) == ["added a", "added b", "added c", "removed a"])


async def test_missing_kind_counts_as_empty_until_it_is_installed() -> None:
    async with FakeKubernetes() as api:
        api.absent.add("pods")
        async with informing(api, absent_retry_s=0.02) as (informer, events):
            await asyncio.wait_for(informer.wait_synced(), 5)
            api.absent.clear()
            api.put("pods", pod("a"))
            await until(lambda: events == ["added a"])


async def test_a_removed_kind_is_accepted_at_the_second_answer() -> None:
    async with FakeKubernetes() as api:
        api.put("pods", pod("a"))
        async with informing(api, absent_retry_s=0.02) as (informer, events):
            await asyncio.wait_for(informer.wait_synced(), 5)
            await until(lambda: api._watches)
            api.absent.add("pods")
            before = len(api.requests)
            api.break_watches()
            await until(lambda: events == ["added a", "removed a"])
            assert len(api.requests) - before >= 2


async def test_object_that_cannot_be_read_is_reported_and_keeps_its_last_good_form() -> None:
    refused: list[tuple[Key, DataError]] = []
    async with FakeKubernetes() as api:
        api.put("pods", pod("a"))
        async with informing(api, on_refused=lambda key, error: refused.append((key, error))) as (informer, _):
            await asyncio.wait_for(informer.wait_synced(), 5)
            bad = pod("a")
            bad["spec"]["hostNetwork"] = "perhaps"
            api.put("pods", bad)
            await until(lambda: refused)
            assert refused[0][0] == ("shop", "a")
            assert isinstance(refused[0][1], InvalidResource)
            assert refused[0][1].field == "spec.hostNetwork"
            assert informer.find("a", "shop") is not None


async def test_field_selector_is_passed_on() -> None:
    async with FakeKubernetes() as api:
        api.put("pods", pod("here", node="node-1"))
        api.put("pods", pod("there", node="node-2"))
        async with informing(api, selection=Selection(fields="spec.nodeName=node-1")) as (informer, events):
            await asyncio.wait_for(informer.wait_synced(), 5)
            assert events == ["added here"]


async def test_token_review_and_create_race() -> None:
    async with FakeKubernetes() as api, Client(kube.explicit(api.url)) as client:
        api.tokens["t"] = token_user("shop", "web", "web-1", "uid-1")
        assert await objects.review_token(client, "t", ["istio-ca"]) == objects.TokenOwner(
            "shop", "web", "web-1", "uid-1"
        )
        assert await objects.review_token(client, "other", ["istio-ca"]) is None
        body = objects.secret_body("s", {"key": b"value"})
        made = await objects.create_if_missing(client, kinds.SECRET, body, "shop")
        again = await objects.create_if_missing(client, kinds.SECRET, objects.secret_body("s", {"key": b"x"}), "shop")
        assert objects.secret_data(again) == objects.secret_data(made) == {"key": b"value"}
        with pytest.raises(errors.Conflict):
            await client.create(kinds.SECRET, body, "shop")
        with pytest.raises(errors.NotFound, match="404"):
            await client.get(kinds.SECRET, "none", "shop")
        assert await objects.ensure_config_map(client, "c", "shop", {"a": "1"})
        assert not await objects.ensure_config_map(client, "c", "shop", {"a": "1"})
        assert await objects.ensure_config_map(client, "c", "shop", {"a": "2"})


async def test_unreachable_api_is_an_error_of_its_own() -> None:
    async with Client(kube.explicit("http://127.0.0.1:1")) as client:
        with pytest.raises(errors.Unreachable):
            await client.get(kinds.POD, "a", "shop")
