"""Requests to the Kubernetes API in plain JSON objects (dictionaries).

Without the client library: making one of its model classes takes hundreds of times longer than reading the two or three
fields that we need, and a watch delivers thousands; having them takes 36 MB.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, cast

import aiohttp

from meshapi import names
from meshkit.kube import errors, nesting
from meshkit.kube.config import Access
from meshkit.kube.kinds import POD, Kind

Json = dict[str, Any]
"""One object as the API sends it."""

_TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
_CONNECTIONS = 64
_READ_BUFFER = 2**21
"""Larger than the largest object (etcd takes 1.5 MiB), so that one is read without a pause."""
_PAGE = 500
"""Objects per page of a list, as kubectl's."""


class PatchType(StrEnum):
    """How a patch is meant, by its media type."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"
    """Server-side apply: the object carries exactly the fields that we own."""


class Client:
    """The one door to the Kubernetes API. Open it with ``async with``; safe for all tasks of one loop.

    Every method raises ``errors.ApiError`` (or a subclass) for a refusal and ``errors.Unreachable`` without an answer.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._access.tls())
        # What a proxy's environment variables say holds, as for kubectl.
        self._opened = aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=_READ_BUFFER)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        """Return one object."""
        return await self._call("GET", kind.path(namespace, name))

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> Json | None:
        """Return one object, or ``None`` when there is none."""
        try:
            return await self.get(kind, name, namespace)
        except errors.NotFound:
            return None

    async def pages(
        self, kind: Kind, namespace: str | None = None, selectors: Mapping[str, str] | None = None
    ) -> AsyncIterator[Json]:
        """Yield the pages of a list (whole ``List`` objects, ``metadata.resourceVersion`` included).

        Without a resource version the list is exact as of now: it cannot go back in time behind an earlier watch.
        """
        query = {**(selectors or {}), "limit": str(_PAGE)}
        while True:
            page = await self._call("GET", kind.path(namespace), query)
            yield page
            rest = page.get("metadata", {}).get("continue")
            if not rest:
                return
            query["continue"] = rest

    async def watch(
        self, kind: Kind, namespace: str | None, query: Mapping[str, str], *, idle_s: float
    ) -> AsyncIterator[Json]:
        """Yield watch events (``type`` and ``object``) until the server ends the stream or is silent for ``idle_s``."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=idle_s)
        path = kind.path(namespace)
        try:
            async with self._session().get(
                self._url(path),
                params={**query, "watch": "true"},
                headers=await self._headers(),
                timeout=timeout,
                **self._extra(),
            ) as response:
                if response.status >= 400:
                    raise errors.from_status(response.status, _decoded(await response.read()), f"watch {path}")
                async for line in _lines(response.content):
                    yield cast("Json", nesting.decode(line))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise errors.Unreachable(f"watch {path}: {type(error).__name__}: {error}") from error

    async def items(
        self, kind: Kind, namespace: str | None = None, selectors: Mapping[str, str] | None = None
    ) -> list[Json]:
        """Return a whole list's objects; for command-line tools, which list once."""
        return [item async for page in self.pages(kind, namespace, selectors) for item in page.get("items") or []]

    async def version(self) -> Json:
        """Return the API server's version."""
        return await self._call("GET", "/version")

    async def log(self, pod: str, namespace: str, query: Mapping[str, str]) -> bytes:
        """Return what a container of a pod has written; ``query`` as the API's (``container``, ``limitBytes``...)."""
        return await self._raw("GET", POD.path(namespace, pod, "log"), query)

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Mapping[str, str], protocol: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a stream to a subresource (as ``pods/portforward``) that speaks ``protocol``."""
        headers = await self._headers()
        del headers["Accept"]  # what streams is not JSON, and the API server takes the header at its word
        try:
            async with self._session().ws_connect(
                self._url(path), params=query, protocols=[protocol], headers=headers, max_msg_size=0, **self._extra()
            ) as stream:
                yield stream
        except aiohttp.WSServerHandshakeError as error:
            raise errors.from_status(error.status, {"message": error.message}, f"GET {path}") from error
        except aiohttp.ClientError as error:
            raise errors.Unreachable(f"GET {path}: {type(error).__name__}: {error}") from error

    async def create(self, kind: Kind, body: Json, namespace: str | None = None) -> Json:
        """Create an object; ``errors.Conflict`` when it exists."""
        return await self._call("POST", kind.path(namespace), body=self._typed(kind, body))

    async def replace(self, kind: Kind, body: Json, namespace: str | None = None) -> Json:
        """Replace an object; ``errors.Conflict`` when it has changed since ``metadata.resourceVersion``."""
        return await self._call("PUT", kind.path(namespace, body["metadata"]["name"]), body=self._typed(kind, body))

    async def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, grace_period_s: int | None = None
    ) -> None:
        """Delete an object; a pod is given ``grace_period_s`` where given, also one that is ending already."""
        query = None if grace_period_s is None else {"gracePeriodSeconds": str(grace_period_s)}
        await self._call("DELETE", kind.path(namespace, name), query)

    async def patch(
        self,
        kind: Kind,
        name: str,
        body: Json,
        namespace: str | None = None,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
        manager: str = names.FIELD_MANAGER,
    ) -> Json:
        """Patch an object or its ``subresource`` (as ``status``); ``manager`` owns the fields."""
        query = {"fieldManager": manager}
        if patch_type is PatchType.APPLY:
            query["force"] = "true"
            body = self._typed(kind, body)
        path = kind.path(namespace, name, subresource)
        return await self._call("PATCH", path, query, body=body, content_type=patch_type.value)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        return cast("Json", _decoded(await self._raw(method, path, query, data=data, content_type=content_type)))

    async def _raw(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        data: bytes | None = None,
        content_type: str = "",
    ) -> bytes:
        headers = await self._headers()
        if data is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._session().request(
                method, self._url(path), params=query, data=data, headers=headers, timeout=_TIMEOUT, **self._extra()
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise errors.from_status(response.status, _decoded(answer), f"{method} {path}")
        return answer

    async def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": names.FIELD_MANAGER}
        try:
            authorization = await self._access.authorization()
        except OSError as error:
            raise errors.ConfigError(f"the token of the service account cannot be read: {error}") from error
        if authorization:
            headers["Authorization"] = authorization
        return headers

    def _extra(self) -> dict[str, Any]:
        pairs = {"server_hostname": self._access.server_name, "proxy": self._access.proxy}
        return {name: value for name, value in pairs.items() if value}

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            raise RuntimeError("the client is not open; use it inside `async with`")
        return self._opened

    def _url(self, path: str) -> str:
        return f"{self._access.server.rstrip('/')}{path}"

    @staticmethod
    def _typed(kind: Kind, body: Json) -> Json:
        return {"apiVersion": kind.api_version, "kind": kind.name, **body}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split a stream at line ends; a line may be larger than any read buffer (an object may have 1.5 MiB)."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *lines, last = rest.split(b"\n")
        rest = last
        for line in lines:
            if line:
                yield bytes(line)
        await asyncio.sleep(0)  # a burst of events must not starve the loop


def _decoded(body: bytes) -> object:
    try:
        return nesting.decode(body) if body else {}
    except ValueError:
        return body[:500].decode(errors="replace")
