"""Our entry in a node's CNI configuration. Pure: from a file's content to its new content.

We are the last of the chain, so that the pod's network is complete when our plugin is called. A single-plugin ``.conf``
becomes a list; everything that we did not write stays byte for byte in meaning (keys we do not know are kept).
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from meshapi import names

_MACHINERY: Final = (names.NODE_AGENT_DAEMON_SET, names.ZTUNNEL_SERVICE_ACCOUNT, names.CONTROL_PLANE_SERVICE)
"""Names of our own DaemonSets and Deployment: the agent is not ready without them, so they must not wait for it."""
_SUFFIXES: Final = (".conf", ".conflist", ".json")


class BadConfiguration(ValueError):
    """A CNI configuration cannot be read."""


def plugin_entry(*, agent_socket: str, agent_namespace: str) -> dict[str, Any]:
    """Return our entry; the fields are read by ``engine/crates/cni``."""
    return {
        "type": names.CNI_PLUGIN_NAME,
        "name": names.CNI_PLUGIN_NAME,
        "agent_socket": agent_socket,
        "agent_namespace": agent_namespace,
        "exempt_pod_prefixes": [f"{name}-" for name in _MACHINERY],
    }


def primary(files: Iterable[str]) -> str | None:
    """Return the name of the configuration that the runtime uses: the first in order."""
    candidates = sorted(name for name in files if name.endswith(_SUFFIXES))
    return candidates[0] if candidates else None


def chained(content: str, entry: dict[str, Any]) -> str:
    """Return the configuration with our entry last; unchanged text when it is there already.

    Raises:
        BadConfiguration: the content is no CNI configuration.
    """
    config = _parse(content)
    plugins = config.get("plugins")
    if plugins is None:
        plugin = {key: value for key, value in config.items() if key not in {"cniVersion", "disableCheck"}}
        config = {"cniVersion": config.get("cniVersion", "0.3.1"), "name": config["name"], "plugins": [plugin]}
        plugins = config["plugins"]
    if plugins[-1:] == [entry]:
        return content
    config["plugins"] = [plugin for plugin in plugins if not _is_ours(plugin)] + [entry]
    return json.dumps(config, indent=2) + "\n"


def unchained(content: str) -> str:
    """Return the configuration without our entry; unchanged text when it is not there.

    Raises:
        BadConfiguration: the content is no CNI configuration.
    """
    config = _parse(content)
    plugins = config.get("plugins") or []
    left = [plugin for plugin in plugins if not _is_ours(plugin)]
    if left == plugins:
        return content
    config["plugins"] = left
    return json.dumps(config, indent=2) + "\n"


def is_chained(content: str) -> bool:
    """Say whether our entry is in the configuration."""
    try:
        return any(_is_ours(plugin) for plugin in _parse(content).get("plugins") or [])
    except BadConfiguration:
        return False


def _is_ours(plugin: object) -> bool:
    return isinstance(plugin, dict) and plugin.get("type") == names.CNI_PLUGIN_NAME


def _parse(content: str) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except ValueError as error:
        raise BadConfiguration(f"not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise BadConfiguration("has no name")
    if "plugins" not in config and "type" not in config:
        raise BadConfiguration("has neither plugins nor type")
    return config
