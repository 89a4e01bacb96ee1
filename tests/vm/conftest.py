"""One machine for all tests of a session: started with the first of them, stopped before any result is checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.lab import ROOT
from tests.vm import inner, kernel, machine

LIMIT_S = 3600 if inner.IS_THOROUGH else 1800


@dataclass(frozen=True, slots=True)
class Session:
    """What a machine left.

    Attributes:
        release: of its kernel, as it says it itself.
        exchange: folder with the output of each run.
        results: by the test's name without parameters.
    """

    release: str
    exchange: Path
    results: Mapping[str, list[inner.Result]]


@pytest.fixture(scope="session")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Session:
    exchange = tmp_path_factory.mktemp("exchange")
    env = {"PYTHONPATH": str(ROOT), **inner.ENVIRONMENT}
    try:
        done = machine.run(kernel.obtain(), inner.command(), exchange, cwd=ROOT, env=env, limit_s=LIMIT_S)
    except machine.MachineFailed as error:
        error.add_note(inner.output(exchange))
        raise
    print(f"the machine ran for {done.seconds:.0f} s; its files: {exchange}")
    assert done.status == 0, f"{done.output}\n{done.console}"
    session = Session(done.output.split()[0], exchange, inner.results(exchange))
    print(f"Linux {session.release}\n{inner.summary(session.results)}")
    return session
