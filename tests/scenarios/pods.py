"""Pods of a scenario, and what their servers have seen."""

from dataclasses import dataclass

from tests.scenarios.files import Behaviour


@dataclass
class Request:
    """A request as a server has seen it."""

    service: str
    version: str
    pod: str
    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Pod:
    """A pod with its server."""

    name: str
    service: str
    version: str
    addresses: tuple[str, ...]
    behaviour: Behaviour
    failed: int = 0
