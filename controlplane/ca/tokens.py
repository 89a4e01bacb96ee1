"""Authentication by Kubernetes service-account tokens, reviewed by the API server and cached for seconds.

The cache is for bursts (a node agent requests certificates for all its workloads at once). It is short because a token
ends with its pod. Only good answers are kept; keys are hashes, so no token stays in memory.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from meshapi import names
from meshkit.kube import Client, KubeError
from meshkit.kube.objects import TokenOwner, review_token
from meshkit.xds.credentials import bearer_token
from meshkit.xds.errors import Unauthenticated

_REMEMBERED_S: Final = 10.0
_MAX_REMEMBERED: Final = 4096
_MAX_TOKEN_CHARACTERS: Final = 16 * 1024


class TokenAuthenticator:
    """Authenticates calls by their token. ``clock`` returns monotonic seconds."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, TokenOwner]] = OrderedDict()

    async def owner(self, metadata: Mapping[str, str]) -> TokenOwner:
        """Return whose token the call's metadata holds.

        Raises:
            Unauthenticated: there is none, it is invalid, or the API server cannot be reached.
        """
        token = bearer_token(metadata)
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise Unauthenticated("the token is too long to be one")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self._clock() < known[0]:
            return known[1]
        try:
            owner = await review_token(self._client, token, [names.TOKEN_AUDIENCE])
        except KubeError as error:
            raise Unauthenticated(f"the API server could not review the token: {error}") from error
        if owner is None:
            raise Unauthenticated(f"the token is not valid for the audience {names.TOKEN_AUDIENCE}")
        self._known[digest] = (self._clock() + _REMEMBERED_S, owner)
        self._known.move_to_end(digest)
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        return owner

    async def name(self, metadata: Mapping[str, str]) -> str:
        """Return the caller as ``namespace/service account``, for discovery streams.

        Raises:
            Unauthenticated: as ``owner``.
        """
        owner = await self.owner(metadata)
        return f"{owner.namespace}/{owner.service_account}"
