"""Watches the pods of this node and the labels of namespaces, and notifies subscribers of changes."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

from meshkit.kube import kinds
from meshkit.kube.client import Client
from meshkit.kube.informer import Informer, Selection
from nodeagent.discovery.enrolment import PodInfo
from nodeagent.discovery.pods import parse_namespace, parse_pod

Notice = Callable[[str], None]
"""Called with the UID of a pod that changed, or whose namespace did."""


class PodWatch(Mapping[str, PodInfo]):
    """Pods by UID."""

    def __init__(self, client: Client, node_name: str) -> None:
        selection = Selection(fields=f"spec.nodeName={node_name}")
        self._pods = Informer(client, kinds.POD, parse_pod, selection=selection)
        self._namespaces = Informer(client, kinds.NAMESPACE, parse_namespace)
        self._by_uid: dict[str, PodInfo] = {}
        self._notices: list[Notice] = []
        self._pods.add_handler(self._pod_changed)
        self._namespaces.add_handler(self._namespace_changed)

    async def run(self) -> None:
        """Watch Kubernetes until cancelled."""
        await asyncio.gather(self._pods.run(), self._namespaces.run())

    async def wait_synced(self) -> None:
        """Wait until the first list of both kinds has been delivered."""
        await self._pods.wait_synced()
        await self._namespaces.wait_synced()

    def on_change(self, notice: Notice) -> None:
        """Subscribe ``notice``; it is called at once for the pods that are known already."""
        self._notices.append(notice)
        for uid in self._by_uid:
            notice(uid)

    def named(self, namespace: str, name: str) -> PodInfo | None:
        """Return a pod by its name."""
        return self._pods.find(name, namespace)

    def knows_namespace(self, namespace: str) -> bool:
        """Return whether the labels of a namespace are known."""
        return self._namespaces.find(namespace) is not None

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace; none where it is not known."""
        found = self._namespaces.find(namespace)
        return found[1] if found else {}

    def __getitem__(self, uid: str) -> PodInfo:
        return self._by_uid[uid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_uid)

    def __len__(self) -> int:
        return len(self._by_uid)

    def _notice(self, uid: str) -> None:
        for notice in self._notices:
            notice(uid)

    def _pod_changed(self, old: PodInfo | None, new: PodInfo | None) -> None:
        # A StatefulSet's next pod has the same name: the old object may change into one with another UID.
        if old is not None and (new is None or new.uid != old.uid):
            self._by_uid.pop(old.uid, None)
            self._notice(old.uid)
        if new is not None:
            self._by_uid[new.uid] = new
            self._notice(new.uid)

    def _namespace_changed(
        self, old: tuple[str, dict[str, str]] | None, new: tuple[str, dict[str, str]] | None
    ) -> None:
        changed = (new or old or ("", {}))[0]
        for pod in self._by_uid.values():
            if pod.namespace == changed:
                self._notice(pod.uid)
