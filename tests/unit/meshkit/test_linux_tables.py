"""Reading the kernel's tables of mounts and cgroups."""

from pathlib import Path

import pytest

from meshkit.linux import cgroups, mounts

HYBRID = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 22 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
34 30 0:27 / /sys/fs/cgroup/again rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 22 0:30 net:[4026532] /run/netns/a\\040b rw shared:5 - nsfs nsfs rw
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(HYBRID)
    return file


def test_mounts_are_read_with_their_escapes(table: Path) -> None:
    last = mounts.mounted(table)[-1]
    assert last.target == Path("/run/netns/a b")
    assert (last.kind, last.root) == ("nsfs", "net:[4026532]")


def test_each_hierarchy_is_found_once_with_the_options_that_mount_it_again(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mounts.mounted(table)
    monkeypatch.setattr(mounts, "mounted", lambda: found)
    assert [(str(each.root), each.options) for each in cgroups.hierarchies()] == [
        ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
        ("/sys/fs/cgroup/systemd", "none,name=systemd"),
        ("/sys/fs/cgroup/unified", ""),
    ]
    assert cgroups.unified_root() == Path("/sys/fs/cgroup/unified")
