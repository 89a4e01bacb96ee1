"""Asks another service for JSON, with a deadline, handing tracing headers on."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back; without an answer the status is 500 and the document is None."""

    status: int
    document: Any


def fetch(url: str, *, headers: Mapping[str, str], timeout_s: float, attempts: int = 1) -> Answer:
    """Ask ``url``, up to ``attempts`` times until it answers 200."""
    answer = Answer(500, None)
    for _ in range(attempts):
        answer = _once(url, headers=headers, timeout_s=timeout_s)
        if answer.status == 200:
            break
    return answer


def _once(url: str, *, headers: Mapping[str, str], timeout_s: float) -> Answer:
    request = urllib.request.Request(url, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return Answer(response.status, json.load(response))
    except urllib.error.HTTPError as error:
        return Answer(error.code, None)
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", flush=True)
        return Answer(500, None)
