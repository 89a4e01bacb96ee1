"""Our nftables tables as the kernel lists them. Called inside the namespace."""

from functools import lru_cache

from meshkit.linux import netns, nft
from nodeagent.capture.nftables import rules


def listed(table: str) -> str | None:
    """Return how the kernel lists one of our tables; ``None`` when there is none."""
    return nft.list_table(rules.FAMILY, table)


@lru_cache(maxsize=64)
def as_listed(transaction: str, table: str) -> str | None:
    """Return how the kernel lists a table as planned, read back from a scratch namespace."""

    def read_back() -> str | None:
        nft.apply(transaction)
        return listed(table)

    return netns.scratch(read_back)


def remove(table: str) -> bool:
    """Remove one of our tables; return whether there was one."""
    if listed(table) is None:
        return False
    nft.apply(rules.remove(table))
    return True


def difference(found: str | None, wanted: str | None, what: str) -> tuple[str, ...]:
    """Return what differs, in words; nothing when the table is as wanted."""
    if found == wanted:
        return ()
    return (f"nftables {what}" if found is None else f"nftables {what} changed",)
