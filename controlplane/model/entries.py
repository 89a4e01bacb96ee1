"""ServiceEntries by host. Several may claim the same host: here is decided whose it is."""

from collections.abc import Callable

from controlplane.model.index import Index, Key
from meshapi.resources.networking import ServiceEntry


class Entries(Index[ServiceEntry]):
    """Holds the ServiceEntries. Of those that claim a host, the oldest has it (by creation, then by name)."""

    def __init__(self) -> None:
        super().__init__()
        self._by_host: dict[str, set[Key]] = {}

    def put(self, old: ServiceEntry | None, new: ServiceEntry | None) -> None:
        """Replace ``old`` by ``new``."""
        super().put(old, new)
        for host in old.spec.hosts if old is not None else ():
            claimants = self._by_host.get(host, set())
            claimants.discard(old.key if old is not None else ("", ""))
            if not claimants:
                self._by_host.pop(host, None)
        for host in new.spec.hosts if new is not None else ():
            self._by_host.setdefault(host, set()).add(new.key if new is not None else ("", ""))

    def claimants(self, host: str) -> list[ServiceEntry]:
        """Return the entries that claim a host, the oldest first."""
        found = (self.find(key) for key in self._by_host.get(host, ()))
        return sorted((entry for entry in found if entry is not None), key=_age)

    def served(self, entry: ServiceEntry, is_taken: Callable[[str], bool]) -> list[str]:
        """Return the hosts that ``entry`` has within its namespace; ``is_taken``: by a service of Kubernetes there."""
        namespace = entry.metadata.namespace
        result = []
        for host in dict.fromkeys(entry.spec.hosts):
            first = next(item for item in self.claimants(host) if item.metadata.namespace == namespace)
            if first.key == entry.key and not is_taken(host):
                result.append(host)
        return result

    def is_first(self, entry: ServiceEntry, host: str) -> bool:
        """Return whether ``entry`` is the oldest of all namespaces that claims ``host``."""
        return self.claimants(host)[0].key == entry.key


def _age(entry: ServiceEntry) -> tuple[str, Key]:
    return (entry.metadata.creation_timestamp, entry.key)
