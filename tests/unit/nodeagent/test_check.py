"""``culvert check``: what is concluded from what is found."""

from pathlib import Path

import pytest

from nodeagent.check import conflicts, host
from nodeagent.check.result import Level, Result, exit_code, table

OK, LIMIT, FAULT = (Result("kernel", f"feature {level}", level, "told") for level in Level)
MOUNTS = (
    "29 22 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n"
    "30 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "31 29 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
)
CONFLIST = '{"cniVersion": "0.3.1", "name": "net", "plugins": [{"type": "bridge"}%s]}'
OURS = ', {"type": "culvert-cni", "name": "culvert-cni"}'


@pytest.mark.parametrize(
    ("results", "code"), [((), 0), ((OK, OK), 0), ((OK, LIMIT), 1), ((FAULT, OK), 2), ((LIMIT, FAULT), 2)]
)
def test_the_exit_status_is_that_of_the_worst_finding(results: tuple[Result, ...], code: int) -> None:
    assert exit_code(results) == code


def test_the_table_has_a_line_for_each_finding() -> None:
    assert table((OK, FAULT)).splitlines() == [
        "AREA     CHECK           RESULT   DETAIL",
        "kernel   feature ok      ok       told",
        "kernel   feature fault   fault    told",
    ]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (MOUNTS, {"cgroup2": Level.OK, "bpf": Level.LIMIT}),
        (MOUNTS + "32 22 0:29 / /sys/fs/bpf rw - bpf bpf rw\n", {"cgroup2": Level.OK, "bpf": Level.OK}),
        ("31 29 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", {"cgroup2": Level.LIMIT, "bpf": Level.LIMIT}),
    ],
)
def test_mounts_that_capture_by_bpf_needs_are_looked_for(tmp_path: Path, text: str, levels: dict[str, Level]) -> None:
    (tmp_path / "mountinfo").write_text(text)
    found = list(host.check_mounts(tmp_path / "mountinfo", Path("/proc/1/root/sys/fs/bpf/culvert")))
    assert {one.name: one.level for one in found} == levels


@pytest.mark.parametrize(
    ("files", "level", "says"),
    [
        ({}, Level.FAULT, "has none"),
        ({"10-net.conflist": "{"}, Level.FAULT, "10-net.conflist"),
        ({"10-net.conflist": CONFLIST % ""}, Level.OK, "not installed"),
        ({"10-net.conflist": CONFLIST % OURS}, Level.FAULT, "new pods fail"),
        ({"10-net.conflist": CONFLIST % OURS, "culvert-cni": ""}, Level.OK, "installed as"),
    ],
)
def test_the_cni_configuration_is_read(tmp_path: Path, files: dict[str, str], level: Level, says: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = list(host.check_cni(tmp_path, tmp_path, "culvert-cni"))
    assert found[-1].level is level
    assert says in found[-1].detail


def test_small_packets_are_a_limit(tmp_path: Path) -> None:
    for name, size in (("lo", 65536), ("eth0", 1500), ("wg0", 1200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mtu").write_text(f"{size}\n")
    [found] = host.check_mtu(tmp_path)
    assert (found.level, found.detail) == (
        Level.LIMIT,
        "wg0 1200: below 1280, so that IPv6 does not work there",
    )


def test_daemons_that_meddle_are_named_with_what_to_do(tmp_path: Path) -> None:
    for number, name in enumerate(("systemd", "firewalld", "NetworkManager", "cilium-agent")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_text(f"{name}\n")
    found = {one.name: one for one in conflicts.check_processes(tmp_path)}
    assert found.keys() == {"firewalld", "NetworkManager", "cilium-agent"}
    assert "socketLB.hostNamespaceOnly=true" in found["cilium-agent"].detail
    (tmp_path / "empty").mkdir()
    assert [one.level for one in conflicts.check_processes(tmp_path / "empty")] == [Level.OK]


def test_rules_of_other_meshes_are_found() -> None:
    theirs = frozenset({("inet", "istio-ambient-nat"), ("ip", "nat"), ("inet", "culvert-probes")})
    [found] = conflicts.check_rules(lambda: theirs)
    assert (found.level, found.detail) == (Level.LIMIT, "nftables tables istio-ambient-nat")
    [found] = conflicts.check_rules(lambda: frozenset({("ip", "nat")}))
    assert found.level is Level.OK
