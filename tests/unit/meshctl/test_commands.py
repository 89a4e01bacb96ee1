"""The command line where there is no cluster: errors are one line, and the chart is found."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl import chart
from meshctl.session import CommandError

ROOT = Path(__file__).parent.parent.parent.parent


def culvert(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshctl", *arguments]
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)


def test_the_version_of_the_command_needs_no_cluster() -> None:
    done = culvert("version", "--no-remote", "-o", "yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("client: ")


@pytest.mark.parametrize("command", [["status"], ["version"], ["ztunnel-config", "workloads"]])
def test_a_wrong_kubeconfig_is_one_line(command: list[str], tmp_path: Path) -> None:
    done = culvert(*command, "--kubeconfig", str(tmp_path / "none"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"culvert {' '.join(command)}: kubeconfig ")


def test_no_kubeconfig_at_all_is_one_line(tmp_path: Path) -> None:
    done = culvert("status", HOME=str(tmp_path), KUBECONFIG="")
    assert done.returncode == 1
    wanted = f"culvert status: no kubeconfig at {tmp_path}/.kube/config; set KUBECONFIG or give --kubeconfig\n"
    assert done.stderr == wanted


def test_install_says_that_helm_is_missing() -> None:
    done = culvert("install", PATH="/nowhere")
    assert done.returncode == 1
    assert "helm is not on the PATH" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_helm_must_be_a_program(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a program"):
        chart.find_helm(tmp_path)


def test_helms_last_words_are_the_error(tmp_path: Path) -> None:
    program = tmp_path / "helm"
    program.write_text("#!/bin/sh\necho 'Error: values: no such key' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(CommandError, match=r"^helm upgrade: values: no such key$"):
        asyncio.run(chart.helm(program, ["upgrade"], kubeconfig=None, context=None))


def test_the_chart_brings_its_definitions() -> None:
    names = [item["metadata"]["name"] for item in chart.definitions(chart.folder())]
    assert "authorizationpolicies.security.istio.io" in names
