"""Tests of ``tests/integration`` as they run inside the machine: which, by what command, and how each of them ended.

Two runs side by side, one for each processor. Everything is slow there, so not every case of every test is run:
``selection`` says which. What a kernel lacks is a skip, not a case that is left out.
"""

import importlib
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.support import backends
from tests.vm import agent, kernel, machine, selection

_PACKAGE: Final = "tests.integration"
IS_THOROUGH: Final = os.environ.get(selection.THOROUGH) == "1"
"""Whether every case of the backend ebpf is run (`make vm`), which doubles the time; else a part of them."""
ENVIRONMENT: Final = {
    selection.THOROUGH: str(int(IS_THOROUGH)),
    "CULVERT_TEST_TIMEOUT_FACTOR": "10",  # see tests/support/waiting.py
    "CULVERT_UPGRADES": "1",  # instead of 8
}
_LONG: Final[tuple[Mapping[str, tuple[str, ...]], ...]] = (
    {"test_egress": (), "test_egress_registry": (), "test_bad_link": ()},
    {
        "test_direct": (),
        "test_direct_life": (),
        "test_direct_security": (),
        "test_direct_services": (),
        "test_ebpf_bypass": (),
        "test_ebpf_life": (),
    },
)
"""What `make vm` runs besides, or instead of a part."""
RUNS: Final[tuple[Mapping[str, tuple[str, ...]], ...]] = (
    {
        "test_guard": (),
        "test_repair": (),
        "test_tunnel": (
            "test_a_connection_between_pods_is_mutual_tls_and_keeps_the_clients_address",
            "test_a_client_outside_the_mesh_is_served_in_plain_text_unless_strict",
            "test_deny_by_principal_names_the_policy_and_cuts_open_connections",
            "test_connections_older_than_the_rules_go_on",
        ),
        "test_dns": ("test_names_of_the_mesh_are_answered_without_a_query_to_the_resolver",),
        "test_egress": ("test_every_attempt_succeeds_without_the_filter_and_none_with_it[nftables]",),
        **(_LONG[0] if IS_THOROUGH else {}),
    },
    {
        "test_linux": (),
        "test_capture": (),
        "test_ebpf_capture": (),
        "test_direct": (
            "test_after_the_first_connection_of_a_pair_no_byte_enters_the_tunnel",
            "test_a_change_of_policy_ends_forbidden_connections_at_once_and_leaves_others_alone",
        ),
        **(_LONG[1] if IS_THOROUGH else {}),
        "test_handover": ("test_open_connections_survive_upgrades_however_many",),
    },
)
"""Modules, each with the tests (or single cases) that are run of it; none named: all but those left out."""
LEFT_OUT: Final[Mapping[str, str]] = {
    "test_capture::test_every_plan_follows_every_other_without_a_trace": "more than a minute",
    "test_direct_life::test_ztunnel_is_killed_and_no_direct_connection_notices": "ztunnel is back too early",
    "test_repair::test_repeated_flushes_do_not_delay_the_repair": "a measurement, meaningless on an emulated CPU",
    "test_repair::test_a_hundred_pods_cost_little_while_nothing_happens": "the same",
}
"""Test to the reason why it is not run."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a test ended with one set of parameters.

    Attributes:
        name: with the parameters.
        kind: ``failure``, ``error``, ``skipped``; nothing if it passed.
        text: what pytest says about it.
    """

    name: str
    kind: str
    text: str

    @property
    def lacks(self) -> str:
        """What the kernel lacks, in a sentence; nothing where it has what the test needs."""
        is_claim = self.kind == "skipped" and self.text.startswith(selection.LACKS)
        return self.text.partition("\n")[0] if is_claim and kernel.is_older_than(5, 17) else ""


def tests() -> list[str]:
    """Name all that are run, without parameters: ``test_guard::test_bpf_programs_of_other_owners_stay``."""
    named = ((module, name) for run in RUNS for module, names in run.items() for name in names or _all(module))
    return [f"{module}::{name.partition('[')[0]}" for module, name in named]


def command(exchange: Path = machine.EXCHANGE) -> str:
    """Return the command that runs them; exits with 0 when every run has ended."""
    # First of all: whatever runs later loads modules.
    lines = ["uname -r", agent.command()]
    for number, run in enumerate(RUNS):
        ids = [one for module, names in run.items() for one in _ids(module, names)]
        pytest = [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.vm.selection",
            "-v", "--durations=20", "--override-ini=junit_logging=all", "--override-ini=junit_log_passing_tests=false",
            f"--basetemp=/run/pytest-{number}", f"--junitxml={exchange / f'junit-{number}.xml'}", *_left_out(), *ids,
        ]  # fmt: skip
        # 1: some failed; the JUnit file says which.
        log = exchange / f"pytest-{number}"
        lines.append(f"({shlex.join(pytest)} >{log} 2>&1; echo $? >{exchange / f'ended-{number}'}) &")
    return "\n".join([*lines, "wait"])


def results(exchange: Path) -> Mapping[str, list[Result]]:
    """Return the results of each test, with every set of parameters.

    Raises:
        AssertionError: a run did not end; the message has its output.
    """
    found: dict[str, list[Result]] = {}
    for number, _ in enumerate(RUNS):
        ended = exchange / f"ended-{number}"
        assert ended.exists() and ended.read_text().strip() in {"0", "1"}, (exchange / f"pytest-{number}").read_text()
        for case in ElementTree.parse(exchange / f"junit-{number}.xml").iter("testcase"):
            module = case.attrib["classname"].rpartition(".")[2]
            function = case.attrib["name"].partition("[")[0]
            found.setdefault(f"{module}::{function}", []).append(_result(case))
    return found


def summary(found: Mapping[str, list[Result]]) -> str:
    """Count how cases ended, a line for each way of capturing that they are about."""
    counts: dict[str, Counter[str]] = {}
    for name, cases in found.items():
        for one in cases:
            ways = (way for way in sorted(backends.NAMES) if way in one.name.partition("[")[2])
            way = "ebpf" if name.startswith(selection.EBPF_ONLY) else next(ways, "any")
            ended = "skipped" if one.kind == "skipped" else "failed" if one.kind else "passed"
            counts.setdefault(way, Counter())[ended] += 1
    kinds = ("passed", "failed", "skipped")
    lines = (f"{way}: " + ", ".join(f"{count[kind]} {kind}" for kind in kinds) for way, count in sorted(counts.items()))
    return "\n".join(lines)


def output(exchange: Path) -> str:
    """Return the output of the runs so far."""
    logs = (exchange / f"pytest-{number}" for number, _ in enumerate(RUNS))
    return "\n".join(log.read_text() for log in logs if log.exists())


def _result(case: ElementTree.Element) -> Result:
    outcome = [one for one in case if one.tag in {"failure", "error", "skipped"}]
    captured = [one for one in case if one.tag.startswith("system-")] if outcome else []
    text = "\n".join(f"{one.attrib.get('message', '')}\n{one.text or ''}" for one in (*outcome, *captured))
    return Result(case.attrib["name"], outcome[0].tag if outcome else "", text)


def _ids(module: str, names: tuple[str, ...]) -> Iterator[str]:
    path = f"{_PACKAGE.replace('.', '/')}/{module}.py"
    yield from (f"{path}::{name}" for name in names) if names else (path,)


def _left_out() -> Iterator[str]:
    for name in LEFT_OUT:
        module, _, test = name.partition("::")
        for one in _ids(module, (test,)):
            yield f"--deselect={one}"


def _all(module: str) -> list[str]:
    named = vars(importlib.import_module(f"{_PACKAGE}.{module}"))
    return [name for name in named if name.startswith("test_") and f"{module}::{name}" not in LEFT_OUT]
