"""The state of a delta subscription, by exchanges of requests and changes."""

import time
from collections.abc import Callable, Collection, Iterable, Set

from meshapi import names as known
from meshkit.xds.source import Listener, Resource
from meshkit.xds.subscription import Delta, Subscription
from meshkit.xds.whole import WholeSubscription

TYPE = "t"


class Source:
    def __init__(self, *resources: Resource, announces_missing: bool = True) -> None:
        self.held = {item.name: item for item in resources}
        self.announces_missing = announces_missing
        self.subscribed: list[set[str]] = []

    def serves(self, type_url: str) -> bool:
        return type_url == TYPE

    def lookup(self, type_url: str, name: str) -> Resource | None:
        return self.held.get(name)

    def resolve(self, type_url: str, name: str) -> Iterable[Resource]:
        primary = [item for item in self.held.values() if name == item.name or name in item.aliases]
        children = [item for item in self.held.values() for parent in primary if parent.name in item.parents]
        return [*primary, *children]

    def all(self, type_url: str) -> Collection[Resource]:
        return self.held.values()

    def watch(self, listener: Listener) -> Callable[[], None]:
        return lambda: None

    def wanted(self, type_url: str, names: Set[str]) -> None:
        self.subscribed.append(set(names))


def resource(name: str, version: str = "1", aliases: tuple[str, ...] = (), parents: tuple[str, ...] = ()) -> Resource:
    return Resource(name, version, version.encode(), aliases, parents)


def names(delta: Delta) -> list[str]:
    return sorted(item.name for item in delta.upserts)


def test_empty_first_request_is_a_wildcard() -> None:
    subscription = Subscription(TYPE, Source(resource("a"), resource("b")))
    assert names(subscription.request([], [], {})) == ["a", "b"]
    assert subscription.wildcard


def test_first_request_is_answered_even_when_there_is_nothing() -> None:
    delta = Subscription(TYPE, Source()).request([], [], {})
    assert delta
    assert not delta.upserts
    assert not delta.removes


def test_star_is_a_wildcard_and_unsubscribing_from_it_ends_it() -> None:
    source = Source(resource("a"))
    subscription = Subscription(TYPE, source)
    assert names(subscription.request(["*"], [], {})) == ["a"]
    subscription.request([], ["*"], {})
    assert not subscription.wildcard
    source.held["b"] = resource("b")
    assert not subscription.changed({"b"})


def test_subscribing_to_and_unsubscribing_from_star_sends_no_resource() -> None:
    source = Source(resource("a", aliases=("/1.1.1.1",)))
    subscription = Subscription(TYPE, source)
    first = subscription.request(["*"], ["*"], {})
    assert not first.upserts
    assert first
    assert names(subscription.request(["/1.1.1.1"], [], {})) == ["a"]
    source.held["a"] = resource("a", "2", aliases=("/1.1.1.1",))
    assert names(subscription.changed({"a"})) == ["a"]


def test_a_subscription_to_a_missing_name_is_answered_at_once_and_when_it_appears() -> None:
    source = Source()
    subscription = Subscription(TYPE, source)
    subscription.request(["*"], ["*"], {})
    assert subscription.request(["/1.1.1.1"], [], {}).removes == ["/1.1.1.1"]
    source.held["a"] = resource("a", aliases=("/1.1.1.1",))
    assert names(subscription.changed({"a"})) == ["a"]


def test_a_secret_that_does_not_exist_yet_is_not_announced_as_missing() -> None:
    source = Source(announces_missing=False)
    subscription = Subscription(TYPE, source)
    assert not subscription.request(["spiffe://x"], [], {})
    assert source.subscribed == [{"spiffe://x"}]
    source.held["spiffe://x"] = resource("spiffe://x")
    assert names(subscription.changed({"spiffe://x"})) == ["spiffe://x"]


def test_a_secret_that_is_not_made_again_yet_is_not_withdrawn_at_a_reconnect() -> None:
    source = Source(announces_missing=False)
    subscription = Subscription(TYPE, source)
    assert not subscription.request(["a"], [], {"a": "1"})
    source.held["a"] = resource("a", "1")
    assert [item.name for item in subscription.changed({"a"}).upserts] == ["a"]


def test_service_brings_its_workloads_and_later_ones() -> None:
    source = Source(resource("svc", aliases=("/10.0.0.1",)), resource("pod-1", parents=("svc",)))
    subscription = Subscription(TYPE, source)
    subscription.request(["*"], ["*"], {})
    assert names(subscription.request(["/10.0.0.1"], [], {})) == ["pod-1", "svc"]
    source.held["pod-2"] = resource("pod-2", parents=("svc",))
    source.held["pod-3"] = resource("pod-3")
    assert names(subscription.changed({"pod-2", "pod-3"})) == ["pod-2"]


def test_service_that_appears_after_its_workloads_brings_them() -> None:
    source = Source(resource("w", parents=("s",)))
    subscription = Subscription(TYPE, source)
    subscription.request(["s"], ["*"], {})
    assert not subscription.concerns({"w"}), "no client has subscribed to it"
    source.held["s"] = resource("s")
    assert subscription.concerns({"s"})
    assert names(subscription.changed({"s"})) == ["s", "w"]
    assert not subscription.changed({"s", "w"})


def test_only_changes_of_subscribed_names_concern_a_subscription() -> None:
    source = Source(resource("a", aliases=("10.0.0.1",)), resource("b"), resource("c"))
    subscription = Subscription(TYPE, source)
    subscription.request(["10.0.0.1", "missing"], [], {})
    assert subscription.concerns({"a"})
    assert subscription.concerns({"missing"})
    assert not subscription.concerns({"b", "c"})
    del source.held["a"]
    assert subscription.concerns({"a"}), "the client must be notified of the removal"


def test_reconnect_skips_what_is_held_and_removes_what_is_gone() -> None:
    source = Source(resource("same"), resource("changed", "2"), resource("new"))
    delta = Subscription(TYPE, source).request([], [], {"same": "1", "changed": "1", "gone": "1"})
    assert names(delta) == ["changed", "new"]
    assert delta.removes == ["gone"]


def test_on_demand_reconnect_stays_subscribed_to_what_is_held() -> None:
    source = Source(resource("held"), resource("other"))
    subscription = Subscription(TYPE, source)
    delta = subscription.request(["*"], ["*"], {"held": "1", "/9.9.9.9": ""})
    assert not delta.upserts
    assert delta.removes == ["/9.9.9.9"]
    source.held["held"] = resource("held", "2")
    assert names(subscription.changed({"held"})) == ["held"]


def test_a_repeated_subscription_by_name_is_answered_again() -> None:
    subscription = Subscription(TYPE, Source(resource("a")))
    assert names(subscription.request(["a"], [], {})) == ["a"]
    assert names(subscription.request(["a"], [], {})) == ["a"]
    assert not subscription.changed({"a"})


def test_a_removal_is_sent_once() -> None:
    source = Source(resource("a"))
    subscription = Subscription(TYPE, source)
    subscription.request(["a"], [], {})
    del source.held["a"]
    assert subscription.changed({"a"}).removes == ["a"]
    assert not subscription.changed({"a"})


def test_a_wildcard_follows_the_source_and_remembers_nothing() -> None:
    source = Source(resource("a"), resource("b"))
    subscription = Subscription(TYPE, source)
    subscription.request([], [], {"a": "1"})
    assert not subscription.held
    assert subscription.size() == 2
    source.held["b"] = resource("b", "2")
    del source.held["a"]
    delta = subscription.changed({"a", "b"})
    assert (names(delta), delta.removes) == (["b"], ["a"])
    assert subscription.size() == 1


def test_unsubscribed_name_is_not_sent_any_more() -> None:
    source = Source(resource("a"))
    subscription = Subscription(TYPE, source)
    subscription.request(["a"], [], {})
    subscription.request([], ["a"], {})
    source.held["a"] = resource("a", "2")
    assert not subscription.changed({"a"})


def test_refusal_is_recorded_and_the_same_version_not_sent_again() -> None:
    source = Source(resource("a"))
    subscription = Subscription(TYPE, source)
    subscription.request(["a"], [], {})
    nonce = subscription.sent()
    subscription.answered(nonce, "a: bad port")
    assert (subscription.record.nacked, subscription.record.error, subscription.record.rejects) == (1, "a: bad port", 1)
    assert subscription.record.acked == 0
    assert not subscription.changed({"a"})
    source.held["a"] = resource("a", "2")
    assert subscription.changed({"a"})
    subscription.answered(subscription.sent(), None)
    assert subscription.record.acked == 2


def test_a_refused_resource_stays_refused_until_it_is_accepted() -> None:
    """Responses about other resources are accepted meanwhile: the proxy still lacks this one."""
    subscription = Subscription(TYPE, Source(resource("shop/a"), resource("shop/a-b")))
    subscription.request([], [], {})
    subscription.answered(subscription.sent(), "shop/a: bad port", ["shop/a", "shop/a-b"])
    assert subscription.record.refused == {"shop/a": "shop/a: bad port"}
    subscription.answered(subscription.sent(), None, ["shop/a-b"])
    assert subscription.record.refused == {"shop/a": "shop/a: bad port"}
    subscription.answered(subscription.sent(), None, ["shop/a"])
    assert subscription.record.refused == {}


def test_state_of_the_world_sends_all_names_and_ignores_stale_requests() -> None:
    source = Source(resource("a"), resource("b"), announces_missing=False)
    subscription = WholeSubscription(TYPE, source)
    first = subscription.request(["a"], "")
    assert first is not None
    version, nonce = subscription.sent(first)
    subscription.answered(nonce, None)
    assert subscription.request(["a"], nonce) is None
    assert subscription.record.acked == 1
    second = subscription.request(["a", "b"], nonce)
    assert second is not None
    assert [item.name for item in second] == ["a", "b"]
    assert subscription.sent(second)[0] != version
    assert subscription.request(["a"], nonce) is None, "the nonce is of the first response"
    assert subscription.names == {"a", "b"}
    source.held["b"] = resource("b", "2")
    assert subscription.changed({"b"}) is not None
    assert subscription.changed({"c"}) is None


def whole(type_url: str, *held: Resource) -> tuple[Source, WholeSubscription]:
    source = Source(*held, announces_missing=False)
    return source, WholeSubscription(type_url, source)


def test_a_first_request_without_names_is_a_wildcard_except_for_types_by_name() -> None:
    source, clusters = whole(known.CLUSTER_TYPE, resource("a"))
    found = clusters.request([], "")
    assert [item.name for item in found or ()] == ["a"]
    clusters.sent(found or ())
    assert clusters.request([], "1") is None, "an ACK asks for nothing"
    source.held["b"] = resource("b")
    assert len(clusters.changed({"b"}) or ()) == 2
    source.held.clear()
    assert clusters.changed({"a", "b"}) == [], "what is missing is gone, so an empty response says something"
    _, endpoints = whole(known.ENDPOINT_TYPE, resource("a"))
    assert endpoints.request([], "") is None
    assert endpoints.changed({"a"}) is None


def test_an_empty_wildcard_is_answered() -> None:
    _, clusters = whole(known.CLUSTER_TYPE)
    assert clusters.request([], "") == []


def test_a_name_that_was_dropped_and_comes_again_is_sent_again() -> None:
    _, endpoints = whole(known.ENDPOINT_TYPE, resource("a"), resource("b"))
    assert endpoints.request(["a", "b"], "") is not None
    assert endpoints.request(["a"], "") is None
    found = endpoints.request(["a", "b"], "")
    assert [item.name for item in found or ()] == ["a", "b"]


def test_a_refusal_of_a_response_with_one_resource_is_about_that_one() -> None:
    subscription = Subscription(TYPE, Source(resource("a")))
    subscription.request(["a"], [], {})
    subscription.answered(subscription.sent(), "no such field", ["a"])
    assert subscription.record.refused == {"a": "no such field"}


def test_a_refusal_with_many_words_and_names_is_read_in_time() -> None:
    """Each name was searched in the whole text: with the largest request, that took the control plane hours."""
    subscription = Subscription(TYPE, Source())
    sent = [f"Kubernetes//Pod/shop/web-{number}" for number in range(100_000)]
    error = "; ".join(f"{name}: bad" for name in sent[:50_000:100]) + " a" * 100_000
    began = time.thread_time()
    subscription.answered("1", error, sent)
    assert time.thread_time() - began < 2
    assert subscription.record.refused.keys() == set(sent[:50_000:100])
