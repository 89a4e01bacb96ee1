"""Keeps the plugin and its place in the node's configuration there for as long as the agent is installed.

Others write the same file (the network plugin's own agent, at its start or upgrade), so it is looked at again and
again. Files are replaced as a whole, and in an order in which the runtime, even after a power cut, finds a
configuration, and our binary where the configuration names it.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meshapi import names
from meshkit import files
from meshkit.log import logger
from nodeagent.cni import chain

_log = logger("cni")

_LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are, as this container sees the host's folders.

    Attributes:
        plugin: our binary in the image.
        bin_dir: the host's folder of plugins.
        net_dir: the host's folder of configurations.
    """

    plugin: Path
    bin_dir: Path
    net_dir: Path


class Installer:
    """Puts the plugin in place and keeps it there."""

    def __init__(self, places: Places, entry: dict[str, Any]) -> None:
        self._places = places
        self._entry = entry
        self._writing = asyncio.Lock()
        self._withdrawn = False
        self.installed = False
        """Whether new pods are captured from their start."""
        self.installations = 0
        """How often something had to be written."""

    async def run(self) -> None:
        """Install and look again until cancelled or withdrawn."""
        complaint = ""
        while not self._withdrawn:
            try:
                async with self._writing:
                    written = "" if self._withdrawn else await asyncio.to_thread(self.install)
                self.installed = not self._withdrawn
                complaint = ""
                if written:
                    self.installations += 1
                    _log.info("CNI plugin installed", configuration=written)
            except (OSError, chain.BadConfiguration) as error:
                self.installed = False
                if str(error) != complaint:
                    complaint = str(error)
                    _log.warning("CNI plugin not installed, will try again", reason=complaint)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def withdraw(self) -> None:
        """Take everything back, and install no more.

        Raises:
            OSError: a folder is not writable.
        """
        async with self._writing:
            self._withdrawn = True
            self.installed = False
            await asyncio.to_thread(self.remove)

    def install(self) -> str:
        """Bring binary and configuration in place; returns what was written, or an empty text.

        Raises:
            OSError: a folder is missing or not writable, or there is no configuration yet.
            BadConfiguration: the runtime's configuration cannot be read.
        """
        self._install_binary()
        name = chain.primary(entry.name for entry in self._places.net_dir.iterdir())
        if name is None:
            raise FileNotFoundError(
                f"{self._places.net_dir} holds no configuration yet; is a network plugin installed?"
            )
        file = self._places.net_dir / name
        before = _read(file)
        try:
            after = chain.chained(before, self._entry)
        except chain.BadConfiguration as error:
            raise chain.BadConfiguration(f"{file}: {error}") from error
        if after == before:
            return ""
        target = file.with_suffix(".conflist")
        _replace(target, after, file.stat().st_mode & 0o777)
        if target != file:
            file.unlink()
            files.keep_names(file.parent)  # the old one would be the first in order
        return str(target)

    def remove(self) -> None:
        """Take everything back: other plugins' configuration stays as they wrote it, without our entry."""
        for file in self._places.net_dir.iterdir():
            if not file.is_file() or file.name.startswith("."):
                continue
            try:
                content = _read(file)
            except chain.BadConfiguration:  # not ours
                continue
            if chain.is_chained(content):
                _replace(file, chain.unchained(content), file.stat().st_mode & 0o777)
        (self._places.bin_dir / names.CNI_PLUGIN_NAME).unlink(missing_ok=True)
        _log.info("CNI plugin removed")

    def _install_binary(self) -> None:
        target = self._places.bin_dir / names.CNI_PLUGIN_NAME
        source = self._places.plugin.read_bytes()
        if target.is_file() and target.read_bytes() == source and os.access(target, os.X_OK):
            return
        files.replace(target, source, mode=0o755)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise chain.BadConfiguration(f"{file}: not text: {error}") from error


def _replace(file: Path, content: str, mode: int) -> None:
    # The unfinished file's name begins with a dot, which keeps the runtime from taking it for a configuration.
    files.replace(file, content.encode(), mode=mode)
