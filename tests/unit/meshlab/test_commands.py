"""``culvert lab`` says what is wrong in one line, with the fix."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from meshlab import requirements
from meshlab.commands import app


@pytest.fixture(autouse=True)
def _no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("command", ["up", "down", "status", "kubeconfig"])
def test_root_is_required(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = run(command)
    assert result.exit_code == 1
    assert result.stderr == "culvert lab: the lab makes namespaces and mounts, so it needs root: run it with sudo\n"


@pytest.mark.parametrize("command", [("status",), ("logs",), ("shell", "node1"), ("kubeconfig",), ("images", "load")])
def test_a_lab_that_is_not_there_is_named_with_the_command_that_makes_it(command: tuple[str, ...]) -> None:
    result = run(*command, "--name", "x")
    assert result.exit_code == 1
    assert result.stderr == "culvert lab: there is no lab x: `culvert lab up --name x` makes it\n"


def test_down_without_a_lab_does_nothing_and_says_so() -> None:
    result = run("down", "--name", "x")
    assert result.exit_code == 0
    assert result.stderr == "there is no lab x, nothing to do\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "node1"), '--host: "node1" is no IPv4 address'),
        (("--host", "192.0.2.1", "--dual-stack"), "--dual-stack: a lab on hosts has IPv4 only; leave the option out"),
    ],
)
def test_hosts_that_cannot_be_are_refused_before_anything_is_made(options: tuple[str, ...], said: str) -> None:
    result = run("up", *options)
    assert result.exit_code == 1
    assert result.stderr == f"culvert lab: {said}\n"


def test_addons_are_listed() -> None:
    result = run("addon")
    assert result.exit_code == 0
    names = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert names == ["prometheus", "kube-router", "metallb", "fortio"]


def test_an_addon_that_is_not_there_is_named_with_those_that_are() -> None:
    result = run("addon", "grafana")
    assert result.exit_code == 1
    known = "prometheus, kube-router, metallb, fortio"
    assert result.stderr == f"culvert lab: there is no addon grafana; there are: {known}\n"


def test_an_addon_of_a_lab_that_is_not_there_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshlab.cache.obtain", lambda *_: pytest.fail("something was built"))
    result = run("addon", "prometheus", "--name", "x")
    assert result.exit_code == 1
    assert result.stderr == "culvert lab: there is no lab x: `culvert lab up --name x` makes it\n"


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "runc" else f"/usr/bin/{tool}")
    with pytest.raises(requirements.MissingRequirement, match="runc is not installed: install the package runc"):
        requirements.check()
