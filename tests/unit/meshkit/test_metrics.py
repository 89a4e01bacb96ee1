"""Metrics are read from their sources at each scrape."""

from collections import Counter

from prometheus_client import generate_latest

from meshkit import metrics


def test_a_registry_pulls_its_sources_at_each_scrape() -> None:
    seen: Counter[str] = Counter({"a": 1})
    scrapes = 0

    def source() -> list[metrics.Metric]:
        nonlocal scrapes
        scrapes += 1
        return [
            metrics.counter("seen", "Things by kind", seen, "kind"),
            metrics.counter("all", "Things", seen.total()),
            metrics.gauge("level", "Now", scrapes),
            metrics.gauge("levels", "Now, by kind", {"x": 7.0}, "kind"),
        ]

    registry = metrics.registry("tested", source)
    assert scrapes == 0, "nothing is pulled before the first scrape"
    first = generate_latest(registry).decode().splitlines()
    assert {'seen_total{kind="a"} 1.0', "all_total 1.0", "level 1.0", 'levels{kind="x"} 7.0'} <= set(first)
    seen["a"] += 1
    second = generate_latest(registry).decode()
    assert 'seen_total{kind="a"} 2.0' in second
    assert "level 2.0" in second
    assert 'istio_build{component="tested",tag="' in second
    assert "process_open_fds" in second
