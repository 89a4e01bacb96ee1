"""iptables tables that the kernel keeps as nftables', through Debian's ``iptables-nft`` programs.

For nodes whose kernel has no iptables of its own any more: python-iptables knows only the old interface. A pod costs
some twenty milliseconds more this way, for the programs.
"""

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from meshkit.linux import nft
from nodeagent.capture.iptables import rules

_PREFIX: Final = {4: "iptables-nft", 6: "ip6tables-nft"}
_FAMILY: Final = {4: "ip", 6: "ip6"}
_TIMEOUT_S: Final = 10.0


class RestoreError(OSError):
    """A program is missing or refused; the text says which and why."""


class RestoredTables:
    """See ``Tables``."""

    label = "iptables kept by nftables, by iptables-nft-restore"

    def apply(self, version: int, name: str, table: rules.Table, hooks: tuple[str, ...]) -> None:
        """See ``Tables.apply``."""
        found = self.observe(version, name, hooks)
        gone = [hook for hook in hooks if hook not in table and hook in found]
        if not table and not gone:
            return
        text = rules.text(name, table).splitlines()
        changes = []
        for hook in hooks:
            chain = rules.CHAINS[hook]
            jumps = sum(line.startswith(f"-A {hook} ") for line in found.get(hook, ()))
            if hook in table and jumps == 0:
                # Before the source address is rewritten by others, and after whatever else there is.
                changes.append(f"-I {hook} 1 -j {chain}" if hook == "POSTROUTING" else f"-A {hook} -j {chain}")
            if hook in gone:
                changes += [f"-D {hook} -j {chain}"] * jumps
                changes += [f"-F {chain}", f"-X {chain}"] if f":{chain}" in found[hook] else []
        _run([f"{_PREFIX[version]}-restore", "--noflush"], "\n".join([*text[:-1], *changes, text[-1], ""]))

    def observe(self, version: int, name: str, hooks: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """See ``Tables.observe``."""
        with suppress(nft.NftError):  # the programs say it too, at their price
            if (_FAMILY[version], name) not in nft.tables():
                return {}
        lines = _run([f"{_PREFIX[version]}-save", "-t", name]).splitlines()
        found: dict[str, tuple[str, ...]] = {}
        for hook in hooks:
            chain = rules.CHAINS[hook]
            own = [f":{chain}"] if any(line.startswith(f":{chain} ") for line in lines) else []
            own += [line for line in lines if line.startswith(f"-A {chain} ") or line == f"-A {hook} -j {chain}"]
            if own:
                found[hook] = tuple(own)
        return found


def probe(version: int) -> None:
    """Look into a table in the namespace of the calling thread.

    Raises:
        RestoreError: says what is missing and how to get it.
    """
    _run([f"{_PREFIX[version]}-save", "-t", "nat"])


def _run(argv: list[str], text: str = "") -> str:
    if shutil.which(argv[0]) is None:
        raise RestoreError(f"{argv[0]} is missing; install the package iptables")
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RestoreError(f"{argv[0]} does not end") from None
    if done.returncode != 0:
        raise RestoreError(f"{argv[0]}: {done.stderr.strip()}")
    return done.stdout
