"""The product page from outside of the cluster: a Gateway with an address, and versions that change in steps."""

import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samples.tour import commands

_FILES: Final = Path(__file__).parent.parent / "bookinfo"
PAGES: Final = 20
_WITHIN_S: Final = 90
STARS: Final = {"": "no stars (v1)", "black": "black stars (v2)", "red": "red stars (v3)"}
_STEPS: Final = {"route-reviews-v1": {""}, "route-reviews-50-v3": {"", "red"}, "route-reviews-v3": {"red"}}
"""Files of routes, and the stars that pages have then."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What a step did.

    Attributes:
        file: of the route.
        pages: how many of the pages afterwards had which stars.
    """

    file: str
    pages: Counter[str | None]


def publish(kube: commands.Kubectl, lab: str, namespace: str) -> str:
    """Give the page an address that this computer reaches; return its URL."""
    commands.culvert("lab", "addon", "metallb", "--name", lab)
    kube.apply(_FILES / "platform/kube/bookinfo-versions.yaml", _FILES / "gateway-api/bookinfo-gateway.yaml", namespace)
    kube.run("wait", "-n", namespace, "gtw/bookinfo-gateway", "--for=condition=Programmed", "--timeout=120s")
    gateway = kube.document("gtw", "bookinfo-gateway", "-n", namespace)
    url = f"http://{gateway['status']['addresses'][0]['value']}/productpage"
    end = time.monotonic() + _WITHIN_S
    while _stars(url) is None:
        if time.monotonic() > end:
            raise commands.Failed(f"{url} has no page after {_WITHIN_S} s; see: culvert status")
    return url


def shift(kube: commands.Kubectl, namespace: str, url: str) -> Iterator[Shift]:
    """Lead reviews to other versions, step by step. The first step brings a waypoint up.

    Raises:
        Failed: a route is not in force in time.
    """
    for file, stars in _STEPS.items():
        kube.apply(_FILES / f"gateway-api/{file}.yaml", namespace)
        where = ("--namespace", namespace, "--timeout", f"{_WITHIN_S}s", "--kubeconfig", kube.kubeconfig)
        commands.culvert("wait", "httproute", "reviews", *where)
        # What is distributed counts for new connections; a dozen pages are no chance.
        end = time.monotonic() + _WITHIN_S
        while not {_stars(url) for _ in range(12)} <= stars:
            if time.monotonic() > end:
                raise commands.Failed(f"{file} has no effect after {_WITHIN_S} s; see: culvert status")
        yield Shift(file, Counter(_stars(url) for _ in range(PAGES)))


def _stars(url: str) -> str | None:
    """Return the stars of a page; ``None``: it has no reviews."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        time.sleep(0.2)
        return None
    found = re.search(r'data-color="(\w+)"', page)
    if found:
        return found[1]
    return "" if "<blockquote>" in page else None
