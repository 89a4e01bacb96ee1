"""Watches the Secrets that gateways refer to and DestinationRules name, and keeps what is in them.

Each Secret that a proxy may use is watched by itself: a watch of all would bring every Secret of the cluster, keys
included, into the control plane's memory. Secrets that no proxy may use are never requested.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from controlplane.envoy.credentials import Credentials
from controlplane.followers import Followers
from controlplane.gateways.collections import Gateways
from controlplane.gateways.secrets import MISSING, Read, read
from controlplane.inputs.sources import Inputs
from meshkit.kube import Client, Informer, Key, Selection, kinds
from meshkit.tasks import background

_LOOK_S: Final = 60.0
"""How often it is looked whether a certificate has expired."""


class ProxySecrets:
    """Reads what is wanted. Construct, then ``run`` as a task.

    Args:
        inputs: where certificates are put.
        gateways: which Secrets listeners want.
        credentials: which Secrets clusters want.
        touch: is called when certificates have changed.
        client: an open client.
        now: the present time.
    """

    def __init__(
        self,
        inputs: Inputs,
        gateways: Gateways,
        credentials: Credentials,
        touch: Callable[[str], None],
        client: Client,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._inputs = inputs
        self._gateways = gateways
        self._credentials = credentials
        self._touch = touch
        self._client = client
        self._now = now
        self._followers = Followers(self._wanted, self._follow, lambda gone: self._put(gone, None))
        gateways.known.add_handler(self._followers.changed)
        credentials.on_change(self._followers.changed)

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        await self._followers.run()

    def pending(self) -> set[Key]:
        """Return the Secrets that have not been read yet."""
        return {key for key in self._wanted() if self._inputs.secrets.find(key) is None}

    def _wanted(self) -> set[Key]:
        return {key for gateway in self._gateways.known for key in gateway.secrets} | self._credentials.wanted()

    async def _follow(self, key: Key) -> NoReturn:
        selection = Selection(namespace=key[0], fields=f"metadata.name={key[1]}")
        informer = Informer(self._client, kinds.SECRET, read, selection=selection)
        async with background() as tasks:
            tasks.start(informer.run())
            await informer.wait_synced()
            informer.add_handler(lambda _, new: self._put(key, new or MISSING))
            while True:
                self._put(key, informer.find(key[1], key[0]) or MISSING)
                await asyncio.sleep(_LOOK_S)
        raise AssertionError("unreachable")

    def _put(self, key: Key, found: Read | None) -> None:
        secret = None if found is None else found.at(self._now())
        if self._inputs.secrets.find(key) != secret:
            self._inputs.secrets.set(key, secret)
            self._touch("secret")
