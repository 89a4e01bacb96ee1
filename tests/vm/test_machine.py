"""Reports of a machine that does not end, and of tests that fail in it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.lab import ROOT
from tests.vm import inner, kernel, machine, selection

pytestmark = pytest.mark.root

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="tests.integration.test_guard" name="test_one[nftables-fd78::2]" time="1"/>
<testcase classname="tests.integration.test_guard" name="test_one[iptables-nft-fd78::2]" time="1">
<failure message="assert 1 == 2">E  assert 1 == 2</failure><system-out>what it printed</system-out></testcase>
<testcase classname="tests.integration.test_linux" name="test_two" time="1"><skipped message="no kernel"/></testcase>
</testsuite></testsuites>"""


def test_a_machine_that_hangs_is_switched_off_and_shows_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(machine.MachineFailed, match="was switched off after 40 s") as failed:
        machine.run(
            kernel.obtain(), "echo said in $PWD; echo seen >/dev/kmsg; exec sleep 600", tmp_path, cwd=ROOT, env={},
            limit_s=40,  # booting takes most of it where other tests have the processors
        )  # fmt: skip
    assert f"said in {ROOT}" in str(failed.value)
    assert "--- console:" in str(failed.value)
    assert subprocess.run(["pgrep", "--full", f"{tmp_path}"], capture_output=True, check=False).stdout == b""


def test_a_kernel_panic_is_distinguished_from_a_failed_command(tmp_path: Path) -> None:
    with pytest.raises(machine.MachineFailed, match="ended without the command's end") as failed:
        machine.run(kernel.obtain(), "echo c >/proc/sysrq-trigger", tmp_path, cwd=ROOT, env={}, limit_s=60)
    assert "Kernel panic" in str(failed.value)


def test_failures_and_skips_inside_are_named_with_their_output(tmp_path: Path) -> None:
    for number, _ in enumerate(inner.RUNS):
        (tmp_path / f"ended-{number}").write_text("1\n")
        (tmp_path / f"junit-{number}.xml").write_text(JUNIT)
    found = inner.results(tmp_path)
    assert [(one.name, one.kind) for one in found["test_guard::test_one"][:2]] == [
        ("test_one[nftables-fd78::2]", ""),
        ("test_one[iptables-nft-fd78::2]", "failure"),
    ]
    assert "assert 1 == 2" in found["test_guard::test_one"][1].text
    assert "what it printed" in found["test_guard::test_one"][1].text
    assert found["test_linux::test_two"][0].kind == "skipped"
    assert "iptables-nft: 0 passed, 2 failed, 0 skipped" in inner.summary(found)


def test_only_an_old_kernel_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = inner.Result("test_one", "skipped", f"{selection.NO_EBPF}\nsomewhere")
    monkeypatch.setattr(kernel, "DEBIAN", "bullseye")
    assert skipped.lacks == selection.NO_EBPF
    assert not replace(skipped, text="no reason").lacks
    monkeypatch.setattr(kernel, "DEBIAN", "bookworm")
    assert not skipped.lacks


def test_a_run_that_does_not_come_to_its_end_is_no_success(tmp_path: Path) -> None:
    for number, _ in enumerate(inner.RUNS):
        (tmp_path / f"ended-{number}").write_text("2\n")
        (tmp_path / f"pytest-{number}").write_text("INTERNALERROR")
    with pytest.raises(AssertionError, match="INTERNALERROR"):
        inner.results(tmp_path)
