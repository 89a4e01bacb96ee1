"""The probes' exemption on the host, over its life. The rules themselves are tested in real namespaces."""

import asyncio
from collections.abc import Set
from pathlib import Path

from nodeagent.capture.host_probes import ProbeExemption


class Host:
    """The rules on the host."""

    def __init__(self) -> None:
        self.exempt: frozenset[str] | None = None

    def apply(self, _: Path, addresses: Set[str], before: Set[str] | None) -> None:
        self.exempt = frozenset(addresses)

    def missing(self, _: Path, addresses: Set[str]) -> tuple[str, ...]:
        return () if self.exempt == addresses else ("table",)

    def remove(self, _: Path) -> None:
        self.exempt = None


async def test_a_flushed_exemption_is_restored_until_it_is_removed_for_good() -> None:
    host, wanted = Host(), frozenset({"10.0.0.1"})
    exemption = ProbeExemption(host, Path("/proc/1/ns/net"), lambda: wanted)  # type: ignore[arg-type]
    await exemption.update()
    host.exempt = None
    assert await exemption.repair() == ("table",)
    assert host.exempt == wanted
    # As at the end of an uninstallation, where the repair still runs and sees the removal as a change.
    await asyncio.gather(exemption.remove(), exemption.repair(), exemption.update())
    assert await exemption.repair() == ()
    await exemption.update()
    assert host.exempt is None
