"""Keeps the certificates of authorities that BackendTLSPolicies and gateways name, out of ConfigMaps.

They are read one by one, and again: the control plane watches no ConfigMaps of users, there may be very many.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.followers import Followers
from controlplane.gateways.collections import Gateways
from controlplane.inputs.sources import Certificates, Inputs
from meshapi.resources.backend_policies import BackendTLSPolicy
from meshkit.kube import Client, Json, Key, KubeError, kinds
from meshkit.log import logger
from meshkit.tasks import Backoff

_log = logger("controlplane.certificates")
_KEY: Final = "ca.crt"
_REFRESH_S: Final = 30.0
_MAX_BYTES: Final = 256 * 1024
"""The certificates are part of each cluster of the service, so their size counts in every waypoint.

The certificates of all authorities that browsers trust have some 220 kB.
"""


class ConfigMapCertificates:
    """Reads what is wanted. Construct, then ``run`` as a task.

    Args:
        inputs: where policies are, and where certificates are put.
        gateways: those at the edge, which name ConfigMaps too.
        touch: is called when certificates have changed.
        client: an open client.
        refresh_s: how often a ConfigMap is read again.
    """

    def __init__(
        self,
        inputs: Inputs,
        gateways: Gateways,
        touch: Callable[[str], None],
        client: Client,
        *,
        refresh_s: float = _REFRESH_S,
    ) -> None:
        self._gateways = gateways
        self._inputs = inputs
        self._touch = touch
        self._client = client
        self._refresh_s = refresh_s
        self._objects = inputs.of(BackendTLSPolicy)
        self._followers = Followers(self._wanted, self._follow, lambda gone: self._put(gone, None))
        self._objects.add_handler(self._followers.changed)
        gateways.known.add_handler(self._followers.changed)

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        await self._followers.run()

    def pending(self) -> set[Key]:
        """Return the ConfigMaps that have not been read yet."""
        return {key for key in self._wanted() if self._inputs.certificates.find(key) is None}

    def _wanted(self) -> set[Key]:
        of_gateways = {key for gateway in self._gateways.known for key in gateway.config_maps}
        return of_gateways | {
            (item.metadata.namespace, one.name)
            for item in self._objects
            for one in item.spec.validation.ca_certificate_refs
            if (one.group, one.kind) == ("", "ConfigMap")
        }

    async def _follow(self, key: Key) -> NoReturn:
        backoff = Backoff(first_s=min(1.0, self._refresh_s), cap_s=self._refresh_s)
        while True:
            try:
                found = await self._client.find(kinds.CONFIG_MAP, key[1], key[0])
            except KubeError as error:
                # Its present content is unknown: what was read last stays.
                _log.warning("certificates cannot be read, will retry", config_map="/".join(key), reason=str(error))
                if self._inputs.certificates.find(key) is None:
                    self._put(key, Certificates("", f"cannot be read: {error}"))
                await asyncio.sleep(backoff.next())
                continue
            read = certificates_of(found)
            self._put(key, read)
            if read.pem:
                backoff.reset()
                await asyncio.sleep(self._refresh_s * random.uniform(0.9, 1.1))  # noqa: S311  # spreads load
            else:
                await asyncio.sleep(backoff.next())

    def _put(self, key: Key, found: Certificates | None) -> None:
        if self._inputs.certificates.find(key) != found:
            self._inputs.certificates.set(key, found)
            self._touch("certificates")


def certificates_of(config_map: Json | None) -> Certificates:
    """Return the certificates in a ConfigMap, in the form in which every proxy reads them."""
    if config_map is None:
        return Certificates("", "does not exist")
    text = (config_map.get("data") or {}).get(_KEY)
    if not isinstance(text, str) or not text:
        return Certificates("", f"has no key {_KEY}")
    if len(text) > _MAX_BYTES:
        return Certificates("", f"has more than {_MAX_BYTES // 1024} kB in {_KEY}")
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        return Certificates("", f"has no certificates in {_KEY}: {error}")
    return Certificates("".join(one.public_bytes(Encoding.PEM).decode() for one in found))
