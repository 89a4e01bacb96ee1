"""Namespaces, links and cgroups of the real kernel."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from meshkit.linux import cgroups, links, marks, netns, sockets, syscalls, sysctl
from meshkit.linux.syscalls import Clone, Mount
from tests.support.lab import ROOT

pytestmark = pytest.mark.root


@pytest.fixture
def name() -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:8]}"
    yield name
    netns.delete(name)
    links.delete(name)
    cgroups.remove(f"culvert-{name}")


def test_work_runs_inside_the_namespace_and_the_caller_stays_outside(name: str) -> None:
    outside = _own()
    path = netns.create(name)
    inside = netns.run(path, _own)
    assert inside != outside == _own()
    assert [link.name for link in netns.run(path, links.links)] == ["lo"]

    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert netns.run(descriptor, _own) == inside
    finally:
        os.close(descriptor)


def test_exceptions_of_the_work_reach_the_caller(name: str) -> None:
    path = netns.create(name)
    with pytest.raises(FileNotFoundError, match="no link named nothing"):
        netns.run(path, lambda: links.set_up("nothing"))
    with pytest.raises(FileExistsError):
        netns.create(name)


def test_deleting_twice_says_that_there_was_nothing(name: str) -> None:
    netns.create(name)
    assert name in netns.names()
    assert netns.delete(name)
    assert not netns.delete(name)
    assert name not in netns.names()


def test_a_veth_joins_a_namespace_to_a_bridge(name: str) -> None:
    path = netns.create(name)
    links.add_bridge(name)
    links.add_veth(f"{name}v", master=name, peer="eth0", peer_netns=path)

    def configure() -> tuple[links.Route, ...]:
        links.set_up("eth0")
        links.add_address("eth0", ip_interface("198.51.100.2/24"))
        links.add_route(ip_network("203.0.113.0/24"), ip_address("198.51.100.1"))
        return links.routes()

    routes = {str(route.destination): route.gateway for route in netns.run(path, configure)}
    assert routes["203.0.113.0/24"] == ip_address("198.51.100.1")
    assert links.exists(f"{name}v")
    assert links.delete(f"{name}v")
    assert not links.delete(f"{name}v")


def test_killing_a_subtree_ends_all_its_processes_and_no_other(name: str) -> None:
    group = f"culvert-{name}"
    cgroups.create(f"{group}/one")
    cgroups.create(f"{group}/two/inner")
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        cgroups.join(f"{group}/one", sleepers[0].pid)
        cgroups.join(f"{group}/two/inner", sleepers[1].pid)
        assert cgroups.processes(group) == {each.pid for each in sleepers}
        cgroups.kill(group)
        assert [each.wait(5) for each in sleepers] == [-9, -9]
        assert bystander.poll() is None
        cgroups.remove(group)
        assert not any(Path(each.root, group).exists() for each in cgroups.hierarchies())
    finally:
        for each in (*sleepers, bystander):
            each.kill()
            each.wait()


def _own() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_a_setting_is_written_where_proc_is_read_only_as_in_a_container(name: str) -> None:
    path = netns.create(name)
    setting = Path("/proc/sys/net/ipv4/tcp_migrate_req")
    outside = setting.read_text()

    def in_a_container() -> None:
        syscalls.unshare(Clone.NEWNS)
        syscalls.mount("none", "/", flags=Mount.REC | Mount.PRIVATE)
        syscalls.mount("/proc/sys", "/proc/sys", flags=Mount.BIND)
        syscalls.mount("none", "/proc/sys", flags=Mount.BIND | Mount.REMOUNT | Mount.RDONLY)
        with pytest.raises(OSError, match="Read-only"):
            setting.write_text("1")
        sysctl.write("net/ipv4/tcp_migrate_req", "1")

    netns.run(path, in_a_container)
    assert netns.run(path, setting.read_text) == "1\n"
    assert setting.read_text() == outside
    assert not os.path.ismount("/proc/sys"), "not visible outside the namespace"
    with pytest.raises(FileNotFoundError):
        netns.run(path, lambda: sysctl.write("net/ipv4/no_such_setting", "1"))


def test_listeners_are_distinguished_by_their_owning_process(name: str) -> None:
    path = netns.create(name)

    def listen() -> tuple[socket.socket, socket.socket]:
        links.set_up("lo")
        return socket.create_server(("127.0.0.1", 15001)), socket.create_server(("::", 15008), family=socket.AF_INET6)

    def look() -> dict[int, int]:
        return {one.port: one.inode for one in sockets.listeners_on({15001, 15006, 15008})}

    first, second = netns.run(path, listen)
    with first, second:
        found = netns.run(path, look)
        assert found == {15001: os.fstat(first.fileno()).st_ino, 15008: os.fstat(second.fileno()).st_ino}
        assert set(found.values()) <= sockets.own_inodes()
    assert not set(found.values()) & sockets.own_inodes()
    assert netns.run(path, look) == {}


def test_netlink_errors_of_marks_are_raised_as_os_errors(name: str) -> None:
    """A loopback link that is down is refused by netlink with an error of its own kind."""
    delivery = marks.LocalDelivery(mark=0x111, mask=0xFFF, table=100, priority=32764)
    path = netns.create(name)
    with pytest.raises(OSError, match="routing of marks: Network is down"):
        netns.run(path, lambda: marks.add(delivery))
    netns.run(path, lambda: links.set_up("lo"))
    netns.run(path, lambda: marks.add(delivery))
    assert netns.run(path, lambda: marks.missing(delivery)) == ()


def test_namespaces_can_be_deleted_when_ip_netns_has_made_others() -> None:
    """``ip netns add`` makes the folder a shared mount if it is none, over the names that are there by then."""
    steps = "; ".join((
        "from meshkit.linux import netns",
        "import pathlib, subprocess",
        "mounted = lambda: f' {netns.NAMED} ' in pathlib.Path('/proc/self/mounts').read_text()",
        "netns.create('ours')",
        "subprocess.run(['ip', 'netns', 'add', 'theirs'], check=True)",
        "netns.create('later')",
        "print(netns.delete('ours'), mounted())",
        "subprocess.run(['ip', 'netns', 'del', 'theirs'], check=True)",
        "print(netns.delete('later'), mounted())",
        "print(sorted(netns.names()))",
    ))  # fmt: skip
    # What is mounted beneath would be listed as well.
    inside = 'umount --recursive --lazy /run/netns 2>&-; mount -t tmpfs none /run && exec "$0" -c "$1"'
    argv = ["unshare", "--mount", "sh", "-c", inside, sys.executable, steps]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("True True\nTrue False\n[]\n", 0), done.stderr
