"""Metrics in one style: pulled. Parts of a process count in plain numbers; these are read at each scrape.

A source is a function that returns families. It is called on a thread of the metrics endpoint, so it reads only what
may be read from another thread.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

S = TypeVar("S", bound=str)

Source = Callable[[], Iterable[Metric]]
"""Returns families with their present values."""


class _Pulled(Collector):
    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return self._source()

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape; without this the registry would pull at registration."""
        return ()


def registry(component: str, *sources: Source) -> CollectorRegistry:
    """Return the registry of a process: its sources, the process itself, and ``istio_build``.

    Args:
        component: name of the process in ``istio_build``, as Istio has it.
        sources: in the order in which their families are exposed.
    """
    made = CollectorRegistry()
    for source in sources:
        made.register(_Pulled(source))
    ProcessCollector(registry=made)
    build = GaugeMetricFamily("istio_build", "Component and version", labels=["component", "tag"])
    build.add_metric([component, version("culvert")], 1)
    made.register(_Pulled(lambda: [build]))
    return made


def gauge(name: str, help_text: str, value: float | Mapping[S, float], label: str = "") -> Metric:
    """Return a gauge; with ``label``, one sample for each of its values."""
    return _family(GaugeMetricFamily, name, help_text, value, label)


def counter(name: str, help_text: str, value: float | Mapping[S, float], label: str = "") -> Metric:
    """Return a counter, whose name gets the ending ``_total``; with ``label``, one sample for each of its values."""
    return _family(CounterMetricFamily, name, help_text, value, label)


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    help_text: str,
    value: float | Mapping[S, float],
    label: str,
) -> Metric:
    if not isinstance(value, Mapping):
        return kind(name, help_text, value=value)
    family = kind(name, help_text, labels=[label])
    for one, number in value.items():
        family.add_metric([one], number)
    return family
