"""How the kernel's iptables tables are reached: the interface of the legacy way and of the one over nftables."""

from collections.abc import Mapping
from typing import Final, Protocol

from nodeagent.capture.iptables import rules

POD_HOOKS: Final = ("PREROUTING", "OUTPUT", "POSTROUTING")
"""Hooks of our chains in a pod."""
HOST_HOOKS: Final = ("POSTROUTING",)
"""Hooks of our chains on the host."""


class Tables(Protocol):
    """One way to the kernel's tables. Called inside the namespace."""

    label: str

    def apply(self, version: int, name: str, table: rules.Table, hooks: tuple[str, ...]) -> None:
        """Make our chains of these hooks as given, in one commit; without a change nothing is written.

        Raises:
            OSError: the table is as it was.
        """
        ...

    def observe(self, version: int, name: str, hooks: tuple[str, ...]) -> Mapping[str, object]:
        """Return our chains of these hooks, by hook: something that is equal when they are equal, jumps included.

        A chain that is not there, and that nothing jumps to, is left out.
        """
        ...
