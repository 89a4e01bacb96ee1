"""A hundred power cuts of each file that is read back after a restart: it is the old one or the new one, whole.

Of the files that a node keeps these are the state of the mesh (ztunnel), the configuration of the network plugins and
the plugin itself (node agent); of the lab its record and what is in its cache.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meshlab import cache, state
from meshproxy.snapshot import Snapshot
from nodeagent.cni import chain
from nodeagent.cni.install import Installer, Places
from tests.support.power_cuts import recording
from ztunnel.xds import SNAPSHOT_TYPES

CUTS = 100

ENTRY = chain.plugin_entry(agent_socket="/run/cni.sock", agent_namespace="istio-system")
PLUGIN = random.Random(1).randbytes(3000)
OTHERS = {"type": "bridge", "ipam": {"ranges": ["10.0.0.0/24"] * 50}}
SINGLE = json.dumps({"cniVersion": "0.3.1", "name": "net", **OTHERS})
LIST = json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": [OTHERS]})

Step = Callable[[], Coroutine[Any, Any, object]]
Read = Callable[[Path], Coroutine[Any, Any, object]]


@dataclass
class Writer:
    """What writes to a folder, in steps, and what reads it after a restart.

    Attributes:
        begin: files that are there before.
        is_kept: what a step has done outlives a cut right after it.
        reads: by what is read.
    """

    folder: Path
    reads: Mapping[str, Read]
    steps: list[Step]
    begin: Mapping[str, str] = field(default_factory=dict)
    is_kept: bool = True


async def read_snapshot(folder: Path) -> object:
    taken: dict[tuple[str, str], tuple[str, bytes]] = {}

    def take(type_url: str, upserts: list[tuple[str, str, bytes]]) -> list[str]:
        taken.update({(type_url, name): (version, body) for name, version, body in upserts})
        return []

    snapshot = Snapshot(folder / "state.snapshot", SNAPSHOT_TYPES)
    held = await snapshot.restore(take)
    snapshot.close()
    assert sum(map(len, held.values())) == len(taken)
    return taken


def snapshots(folder: Path) -> Writer:
    draw = random.Random(2)
    snapshot = Snapshot(folder / "state.snapshot", SNAPSHOT_TYPES)

    async def write() -> None:
        for type_url in SNAPSHOT_TYPES:
            names = [f"resource-{number}" for number in draw.sample(range(20), 8)]
            bodies = [(name, str(draw.random()), draw.randbytes(draw.randrange(900))) for name in names[:6]]
            snapshot.note(type_url, bodies, names[6:])
        await snapshot.write()

    async def end() -> None:
        snapshot.close()

    return Writer(folder, {"state of the mesh": read_snapshot}, [write] * 4 + [end])


async def read_cni_configuration(folder: Path) -> object:
    """What the runtime finds: the plugins, of the first file in order."""
    net = folder / "net.d"
    name = chain.primary(entry.name for entry in net.iterdir())
    assert name is not None, "the node has no network"
    config = json.loads((net / name).read_text())
    plugins = config.get("plugins") or [{key: config[key] for key in OTHERS}]
    if ENTRY in plugins:
        assert (await read_plugin(folder)) == "whole", "the runtime cannot run what it is told to"
    return plugins


async def read_plugin(folder: Path) -> object:
    binary = folder / "bin" / "culvert-cni"
    if not binary.exists():
        return "none"
    return "whole" if binary.read_bytes() == PLUGIN and os.access(binary, os.X_OK) else "corrupt"


def _cni(folder: Path, name: str, content: str) -> Writer:
    # A unit's folder: the image's binary is not on the disk that loses power.
    source = folder.parent / "image-culvert-cni"
    source.write_bytes(PLUGIN)
    source.chmod(0o755)
    installer = Installer(Places(source, folder / "bin", folder / "net.d"), ENTRY)

    async def install() -> None:
        installer.install()

    reads = {"configuration": read_cni_configuration, "plugin": read_plugin}
    return Writer(folder, reads, [install, install], {f"net.d/{name}": content, "bin/bridge": "x"})


def cni_list(folder: Path) -> Writer:
    return _cni(folder, "10-net.conflist", LIST)


def cni_single(folder: Path) -> Writer:
    return _cni(folder, "10-net.conf", SINGLE)


def cni_removed(folder: Path) -> Writer:
    made = _cni(folder, "10-net.conflist", LIST)

    async def remove() -> None:
        Installer(Places(folder, folder / "bin", folder / "net.d"), ENTRY).remove()

    made.steps.append(remove)
    made.is_kept = False  # the plugin may be back: no configuration names it then
    return made


async def read_labs(folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        found = state.all_records()
        if not found:
            state.begin("one", nodes=1, dual_stack=False)
        return found


def labs(folder: Path) -> Writer:
    async def begin() -> None:
        state.begin("one", nodes=3, dual_stack=True)

    async def complete() -> None:
        (record,) = state.all_records()
        (state.folder("one") / "kubeconfig").write_text("its admin")
        state.complete(record)

    async def forget() -> None:
        state.forget("one")

    begun = {"culvert/lab/.slots.lock": ""}
    return Writer(folder, {"record of a lab": read_labs}, [begin, complete, forget], begun)


async def read_cache(folder: Path) -> object:
    entry = folder / "culvert" / "tool" / "key"
    return {file.name: file.read_bytes() for file in entry.iterdir()} if entry.exists() else {}


def caches(folder: Path) -> Writer:
    def make(draft: Path) -> None:
        for number in range(3):
            (draft / f"file-{number}").write_bytes(random.Random(number).randbytes(2000))

    async def obtain() -> None:
        cache.obtain("tool", "key", make)

    return Writer(folder, {"entry of the cache": read_cache}, [obtain], is_kept=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder


async def read_all(writer: Writer, disk: Path, copy: Path) -> dict[str, object]:
    """Return what is read, each from a copy: a reader may clean up."""
    found = {}
    for number, (what, read) in enumerate(writer.reads.items()):
        target = copy.with_name(f"{copy.name}-{number}")
        shutil.copytree(disk, target)
        found[what] = await read(target)
    return found


@pytest.mark.parametrize("make", [snapshots, cni_list, cni_single, cni_removed, labs, caches])
async def test_after_a_power_cut_the_old_or_the_new_state_is_read(
    make: Callable[[Path], Writer], folder: Path, tmp_path: Path
) -> None:
    writer = make(folder)
    for name, content in writer.begin.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    with recording(folder) as record:
        whole = [await read_all(writer, folder, tmp_path / "whole-begin")]
        for number, step in enumerate(writer.steps):
            with record.step():
                await step()
            whole.append(await read_all(writer, folder, tmp_path / f"whole-{number}"))
        for number in range(CUTS):
            left = tmp_path / f"cut-{number}"
            at, is_done = record.cut(left, draw)
            allowed = whole[at + 1 : at + 2] if is_done and writer.is_kept else whole[at : at + 2]
            for what, found in (await read_all(writer, left, tmp_path / f"read-{number}")).items():
                assert found in [one[what] for one in allowed], f"seed {seed}, cut {number} in step {at}: {what}"


async def test_a_file_that_is_renamed_before_its_bytes_are_safe_is_found(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "file").write_text("old")
    found = set()
    with recording(disk) as record:
        with record.step():
            (disk / "draft").write_text("new one")
            (disk / "draft").rename(disk / "file")
        for number in range(CUTS):
            record.cut(tmp_path / str(number), random.Random(number))
            found.add((tmp_path / str(number) / "file").read_text())
    assert {"old", "new one", "", "\0" * 7} < found


async def test_a_name_that_is_not_safe_may_be_lost_although_a_later_one_is_not(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "old").touch()
    found = set()
    with recording(disk) as record:
        with record.step():
            (disk / "new").touch()
            (disk / "old").unlink()
        for number in range(CUTS):
            record.cut(tmp_path / str(number), random.Random(number))
            found.add(frozenset(file.name for file in (tmp_path / str(number)).iterdir()))
    assert found == {frozenset(one) for one in ((), ("old",), ("new",), ("old", "new"))}


def test_a_configuration_that_is_no_text_is_reported_and_left_to_its_owner(tmp_path: Path) -> None:
    writer = cni_list(tmp_path)
    for name in writer.begin:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    broken = tmp_path / "net.d" / "10-net.conflist"
    broken.write_bytes(b"\xff\xfe")
    installer = Installer(Places(tmp_path.parent / "image-culvert-cni", tmp_path / "bin", tmp_path / "net.d"), ENTRY)
    with pytest.raises(chain.BadConfiguration, match="10-net"):
        installer.install()
    installer.remove()
    assert broken.read_bytes() == b"\xff\xfe"
