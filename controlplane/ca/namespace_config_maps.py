"""What pods mount, in every namespace: the roots to trust (``istio-ca-root-cert``), what is revoked (``istio-ca-crl``).

Level-triggered: a namespace is reconciled when it appears, when its config map is changed or deleted, and when
the content changes. Writing is one small task; a failure is retried and delays no other namespace for long.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from controlplane.ca.signing import SigningSource
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshapi.resources.core import Namespace
from meshkit.kube import Client, Informer, Json, NotFound, Selection, kinds, objects

_LABELS: Final = {"istio.io/config": "true"}
_TERMINATING: Final = "Terminating"


@dataclass(frozen=True, slots=True)
class _Held:
    """A config map as it is."""

    namespace: str
    content: str
    is_ours: bool


class NamespaceConfigMaps:
    """Keeps one config map in every namespace. Run ``informer.run`` as a task, and ``run`` while this replica writes.

    Args:
        wants: whether a namespace gets the config map; one that it has is left alone.
        content: what it should hold; empty: it should not be there; ``None``: not known yet, and nothing is touched.
    """

    def __init__(
        self,
        client: Client,
        namespaces: "Informer[Namespace]",
        *,
        name: str,
        key: str,
        content: Callable[[], str | None],
        wants: Callable[[str], bool],
    ) -> None:
        self._client = client
        self._namespaces = namespaces
        self._name = name
        self._key = key
        self._content = content
        self._wants = wants
        self._due: WorkQueue[str] = WorkQueue(f"config map {name} of a namespace")
        self.informer: Informer[_Held] = Informer(
            client, kinds.CONFIG_MAP, self._held, selection=Selection(fields=f"metadata.name={name}")
        )
        self.informer.add_handler(self._on_config_map)
        namespaces.add_handler(self._on_namespace)

    async def run(self) -> NoReturn:
        """Put right what is due until cancelled."""
        await self.informer.wait_synced()
        self.all_due()
        await self._due.run(self._put_right)

    def all_due(self) -> None:
        """Put right all namespaces: the content has changed, or which namespaces get it."""
        for namespace in self._namespaces:
            self._due.add(namespace.metadata.name)

    async def _put_right(self, namespace: str) -> None:
        if not self._wants(namespace):
            return
        known = self._namespaces.find(namespace)
        content = self._content()
        if known is None or known.status.phase == _TERMINATING or content is None:
            return
        held = self.informer.find(self._name, namespace)
        if not content:
            # A foreign one stays: it may serve another mesh.
            if held is not None and held.is_ours:
                with contextlib.suppress(NotFound):
                    await self._client.delete(kinds.CONFIG_MAP, self._name, namespace)
        elif held is None or held.content != content:
            with contextlib.suppress(NotFound):  # the namespace has just gone
                await objects.ensure_config_map(self._client, self._name, namespace, {self._key: content}, _LABELS)

    def _on_namespace(self, _: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self._due.add(new.metadata.name)

    def _on_config_map(self, old: _Held | None, new: _Held | None) -> None:
        changed = new or old
        if changed is not None:
            self._due.add(changed.namespace)

    def _held(self, item: Json) -> _Held:
        metadata, data = item["metadata"], item.get("data") or {}
        is_ours = _LABELS.items() <= (metadata.get("labels") or {}).items()
        return _Held(metadata["namespace"], str(data.get(self._key, "")), is_ours)


def of_roots(
    client: Client, signing: SigningSource, namespaces: "Informer[Namespace]", wants: Callable[[str], bool]
) -> NamespaceConfigMaps:
    """Return the bundle of the roots."""
    bundle = NamespaceConfigMaps(
        client, namespaces, name=names.ROOT_CERT_CONFIGMAP, key=names.ROOT_CERT_KEY,
        content=lambda: signing.current.roots_pem if signing.is_loaded else None, wants=wants,
    )  # fmt: skip
    signing.on_change(bundle.all_due)
    return bundle


def of_revocation_lists(
    client: Client, signing: SigningSource, namespaces: "Informer[Namespace]", wants: Callable[[str], bool]
) -> NamespaceConfigMaps:
    """Return the bundle of the revocation lists."""
    bundle = NamespaceConfigMaps(
        client, namespaces, name=names.CRL_CONFIGMAP, key=names.CRL_KEY,
        content=lambda: signing.revocations.pem, wants=wants,
    )  # fmt: skip
    signing.revocations.on_change(bundle.all_due)
    return bundle
