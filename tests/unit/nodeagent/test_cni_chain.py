"""Our entry in an existing CNI configuration."""

import json
import os
from pathlib import Path

import pytest

from nodeagent.cni import chain
from nodeagent.cni.install import Installer, Places

ENTRY = chain.plugin_entry(agent_socket="/run/agent.sock", agent_namespace="istio-system")
LIST = json.dumps({"cniVersion": "1.0.0", "name": "net", "extra": 1, "plugins": [{"type": "ptp", "mtu": 9000}]})
SINGLE = json.dumps({"cniVersion": "0.3.1", "name": "net", "type": "bridge", "bridge": "b0"})


def types(content: str) -> list[str]:
    return [plugin["type"] for plugin in json.loads(content)["plugins"]]


def test_we_are_the_last_of_the_chain_and_only_once() -> None:
    once = chain.chained(LIST, ENTRY)
    assert types(once) == ["ptp", "culvert-cni"]
    assert json.loads(once)["extra"] == 1
    assert chain.chained(once, ENTRY) == once
    displaced = json.dumps(json.loads(once) | {"plugins": [*reversed(json.loads(once)["plugins"])]})
    assert types(chain.chained(displaced, ENTRY)) == ["ptp", "culvert-cni"]


def test_an_entry_of_another_version_is_replaced() -> None:
    old = chain.chained(LIST, ENTRY | {"agent_socket": "/old"})
    assert json.loads(chain.chained(old, ENTRY))["plugins"][-1] == ENTRY


def test_a_single_plugin_becomes_a_list() -> None:
    made = json.loads(chain.chained(SINGLE, ENTRY))
    assert made["name"] == "net"
    assert made["plugins"][0] == {"name": "net", "type": "bridge", "bridge": "b0"}
    assert made["plugins"][1] == ENTRY


def test_removing_the_entry_restores_the_list() -> None:
    assert json.loads(chain.unchained(chain.chained(LIST, ENTRY))) == json.loads(LIST)
    assert chain.unchained(LIST) == LIST


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "x"}', "{"])
def test_an_invalid_configuration_is_refused(content: str) -> None:
    with pytest.raises(chain.BadConfiguration):
        chain.chained(content, ENTRY)


def test_the_runtime_uses_the_first_in_order() -> None:
    assert chain.primary(["20-b.conf", "10-a.conflist", "05-readme.txt", "00-x"]) == "10-a.conflist"
    assert chain.primary([]) is None


@pytest.fixture
def places(tmp_path: Path) -> Places:
    plugin, bins, net = tmp_path / "plugin", tmp_path / "bin", tmp_path / "net.d"
    plugin.write_bytes(b"binary")
    bins.mkdir()
    net.mkdir()
    return Places(plugin, bins, net)


def test_installation_is_idempotent_and_reversible(places: Places) -> None:
    (places.net_dir / "10-net.conflist").write_text(LIST)
    installer = Installer(places, ENTRY)
    assert installer.install().endswith("10-net.conflist")
    assert installer.install() == ""
    assert os.access(places.bin_dir / "culvert-cni", os.X_OK)
    (places.net_dir / "10-net.conflist").write_text(LIST)
    assert installer.install() != "", "another process's rewrite is repaired"
    installer.remove()
    assert json.loads((places.net_dir / "10-net.conflist").read_text()) == json.loads(LIST)
    assert sorted(path.name for path in places.net_dir.iterdir()) == ["10-net.conflist"]
    assert list(places.bin_dir.iterdir()) == []


def test_a_conf_file_is_replaced_by_a_list(places: Places) -> None:
    (places.net_dir / "10-net.conf").write_text(SINGLE)
    Installer(places, ENTRY).install()
    assert [path.name for path in places.net_dir.iterdir()] == ["10-net.conflist"]


def test_without_a_network_plugin_it_says_so(places: Places) -> None:
    with pytest.raises(FileNotFoundError, match="is a network plugin installed"):
        Installer(places, ENTRY).install()
