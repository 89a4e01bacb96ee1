"""Tells the API server how to trust the webhooks, and to refuse what it cannot ask about. Runs on the leader only.

The chart installs the configurations without a bundle. That of the validating webhook has ``failurePolicy: Ignore``, so
that an installation works before anything serves; pods that ask for injection wait until it does. From then on
bundle and policy are kept right here, after an upgrade by the chart and a change of the roots, too. The names and this
order are Istio's (``pilot/pkg/webhooks/validation/controller``).
"""

import base64
from collections.abc import Callable
from typing import Final, NoReturn

from controlplane.ca.signing import SigningSource
from controlplane.workqueue import WorkQueue
from meshapi import names
from meshkit.kube import Client, Informer, Json, Kind, NotFound, PatchType, Selection, kinds
from meshkit.log import logger

_log = logger("controlplane.webhook")
FAIL: Final = "Fail"


class Registration:
    """Keeps one configuration right. Run ``informer.run`` as a task, and ``run`` while this replica leads.

    Args:
        client: an open client.
        signing: where the roots come from.
        kind: of the configuration.
        name: of the configuration.
        namespace: of the control plane.
        is_served: whether the webhook answers; nothing is changed before.
    """

    def __init__(
        self,
        client: Client,
        signing: SigningSource,
        kind: Kind,
        name: str,
        *,
        namespace: str,
        is_served: Callable[[], bool],
    ) -> None:
        self._kind = kind
        self._client = client
        self._signing = signing
        self._namespace = namespace
        self._is_served = is_served
        self._name = name
        self._due: WorkQueue[str] = WorkQueue("configuration of the webhook")
        self.informer: Informer[Json] = Informer(
            client,
            kind,
            lambda item: item,
            selection=Selection(fields=f"metadata.name={self._name}"),
        )
        self.informer.add_handler(lambda _, __: self.look())
        signing.on_change(self.look)

    def look(self) -> None:
        """Compare soon: something has changed."""
        self._due.add(self._name)

    async def run(self) -> NoReturn:
        """Put right what is due until cancelled."""
        await self.informer.wait_synced()
        self.look()
        await self._due.run(self._put_right)

    async def _put_right(self, name: str) -> None:
        found = self.informer.find(name)
        if found is None or not self._is_served() or not self._signing.is_loaded:
            return
        bundle = base64.b64encode(self._signing.current.roots_pem.encode()).decode()
        held = found.get("webhooks") or []
        wanted = [self._wanted(one, bundle) for one in held]
        if wanted == held:
            return
        try:
            await self._client.patch(self._kind, name, {"webhooks": wanted}, patch_type=PatchType.STRATEGIC)
        except NotFound:
            return
        _log.info("the API server trusts the webhook", configuration=name)

    def _wanted(self, webhook: Json, bundle: str) -> Json:
        """Return a webhook as it should be; one that leads elsewhere stays as it is."""
        called = webhook.get("clientConfig") or {}
        service = called.get("service") or {}
        if (service.get("namespace"), service.get("name")) != (self._namespace, names.CONTROL_PLANE_SERVICE):
            return webhook
        return {**webhook, "clientConfig": {**called, "caBundle": bundle}, "failurePolicy": FAIL}


def of_reviews(
    client: Client, signing: SigningSource, *, namespace: str, is_served: Callable[[], bool]
) -> Registration:
    """Return what keeps the configuration of the validating webhook right; for arguments see ``Registration``."""
    kind, name = kinds.VALIDATING_WEBHOOK_CONFIGURATION, f"{names.VALIDATOR_PREFIX}{namespace}"
    return Registration(client, signing, kind, name, namespace=namespace, is_served=is_served)


def of_pods(client: Client, signing: SigningSource, *, namespace: str, is_served: Callable[[], bool]) -> Registration:
    """Return what keeps the configuration of gateway injection right; for arguments see ``Registration``."""
    name = names.INJECTOR if namespace == names.DEFAULT_NAMESPACE else f"{names.INJECTOR}-{namespace}"
    kind = kinds.MUTATING_WEBHOOK_CONFIGURATION
    return Registration(client, signing, kind, name, namespace=namespace, is_served=is_served)
