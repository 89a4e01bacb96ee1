"""``culvert check`` on this kernel: every feature is tried, and nothing of the trials stays."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from meshkit.linux import cgroups
from nodeagent.check import conflicts, features
from nodeagent.check.result import Level
from tests.support import ebpf
from tests.support.lab import ROOT

pytestmark = pytest.mark.root

THEIRS = (
    '__attribute__((section("cgroup/connect4"), used)) int theirs(void *context) { return 1; }\n'
    'char terms[] __attribute__((section("license"), used)) = "GPL";\n'
)


def check(*options: str) -> tuple[int, list[dict[str, str]]]:
    command = [sys.executable, "-m", "meshctl", "check", "-o", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("backend", ["auto", "nftables", "iptables", "ebpf"])
def test_every_feature_and_every_concern_is_reported_and_nothing_stays(backend: str) -> None:
    code, results = check("--bpf-pins", str(ebpf.file_system() / "culvert"), "--capture-backend", backend)
    levels = {(one["area"], one["name"]): one["level"] for one in results}
    assert {level for (area, _), level in levels.items() if area == "kernel"} == {"ok"}
    assert levels["backend", "capture"] == levels["backend", "exemption of probes"] == "ok"
    [capture] = (one["detail"] for one in results if one["name"] == "capture")
    assert capture.startswith("ebpf: preferred" if backend == "auto" else f"{backend}: as set")
    assert {area for area, _ in levels} == {"kernel", "backend", "mounts", "cni", "conflicts", "clock", "mtu"}
    assert code == (2 if "fault" in levels.values() else 1 if "limit" in levels.values() else 0)
    assert list(ebpf.file_system().glob("culvert*")) == []


def test_without_a_bpf_file_system_the_fix_is_said_and_the_setting_ebpf_is_a_fault(tmp_path: Path) -> None:
    code, results = check("--bpf-pins", str(tmp_path / "culvert"), "--capture-backend", "ebpf")
    assert code == 2
    [capture] = (one for one in results if one["name"] == "capture")
    assert capture["level"] == "fault"
    assert "mount -t bpf bpf /sys/fs/bpf" in capture["detail"]


def test_without_unified_cgroups_only_capture_by_bpf_is_missing() -> None:
    found = list(features.check(ebpf.file_system() / "unused", None))
    assert {one.level for one in found} == {Level.OK, Level.LIMIT}
    assert "no unified cgroup hierarchy" in found[-1].detail


def test_programs_of_others_on_the_same_hooks_are_named(tmp_path: Path) -> None:
    source, name = tmp_path / "theirs.c", f"culvert-test-{uuid.uuid4().hex[:8]}"
    source.write_text(THEIRS)
    cgroup, pin = ebpf.root() / name, ebpf.file_system() / name
    subprocess.run(["clang", "-O2", "-target", "bpf", "-c", source, "-o", tmp_path / "theirs.o"], check=True)
    subprocess.run(["bpftool", "prog", "load", tmp_path / "theirs.o", pin], check=True)
    cgroup.mkdir()
    try:
        assert [one.level for one in conflicts.check_hooks([cgroup])] == [Level.OK]
        subprocess.run(["bpftool", "cgroup", "attach", cgroup, "connect4", "pinned", pin, "multi"], check=True)
        [found] = conflicts.check_hooks([cgroup])
        assert found.level is Level.LIMIT
        assert "theirs (connect4)" in found.detail
    finally:
        cgroups.remove(name)
        pin.unlink()
