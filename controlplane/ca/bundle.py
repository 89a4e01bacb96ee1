"""The roots in every namespace: config map ``istio-ca-root-cert``, which pods mount to trust the control plane.

Level-triggered: a namespace is put right when it appears, when somebody changes or deletes its config map, and when
the roots change. Writing is one small task; a failure is retried and delays no other namespace for long.
"""

import contextlib
from typing import Final, NoReturn

from controlplane.ca.root import Root
from controlplane.worklist import WorkList
from meshapi import names
from meshapi.resources.core import Namespace
from meshkit.kube import Client, Informer, Json, NotFound, Selection, kinds, objects

_LABELS: Final = {"istio.io/config": "true"}
_TERMINATING: Final = "Terminating"


class RootBundle:
    """Keeps the config maps. Run ``informer.run`` as a task, and ``run`` while this replica is the one that writes."""

    def __init__(self, client: Client, root: Root, namespaces: "Informer[Namespace]") -> None:
        self._client = client
        self._root = root
        self._namespaces = namespaces
        self._due: WorkList[str] = WorkList("roots of a namespace")
        self.informer: Informer[tuple[str, str]] = Informer(
            client,
            kinds.CONFIG_MAP,
            _namespace_and_roots,
            selection=Selection(fields=f"metadata.name={names.ROOT_CERT_CONFIGMAP}"),
        )
        self.informer.add_handler(self._on_config_map)
        namespaces.add_handler(self._on_namespace)
        root.on_change(self._all_due)

    async def run(self) -> NoReturn:
        """Put right what is due until cancelled."""
        await self.informer.wait_synced()
        self._all_due()
        await self._due.run(self._put_right)

    async def _put_right(self, namespace: str) -> None:
        known = self._namespaces.find(namespace)
        if known is None or known.status.phase == _TERMINATING or not self._root.is_loaded:
            return
        roots = self._root.current.roots_pem
        held = self.informer.find(names.ROOT_CERT_CONFIGMAP, namespace)
        if held is not None and held[1] == roots:
            return
        with contextlib.suppress(NotFound):  # the namespace has just gone
            await objects.ensure_config_map(
                self._client, names.ROOT_CERT_CONFIGMAP, namespace, {names.ROOT_CERT_KEY: roots}, _LABELS
            )

    def _on_namespace(self, _: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self._due.add(new.metadata.name)

    def _on_config_map(self, old: tuple[str, str] | None, new: tuple[str, str] | None) -> None:
        changed = new or old
        if changed is not None:
            self._due.add(changed[0])

    def _all_due(self) -> None:
        for namespace in self._namespaces:
            self._due.add(namespace.metadata.name)


def _namespace_and_roots(item: Json) -> tuple[str, str]:
    data = item.get("data") or {}
    return (item["metadata"]["namespace"], str(data.get(names.ROOT_CERT_KEY, "")))
