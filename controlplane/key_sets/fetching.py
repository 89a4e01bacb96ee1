"""Fetches one key set (RFC 7517), from its URL or from where the issuer says (OpenID Connect Discovery, section 4)."""

import ipaddress
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from controlplane.key_sets import addresses

_LARGEST: Final = 1024 * 1024
_REDIRECTS: Final = 3
_DISCOVERY: Final = "/.well-known/openid-configuration"


class FetchFailed(Exception):
    """A key set cannot be had; the text says why."""


class Fetcher:
    """Fetches key sets. Use as a context manager.

    Args:
        check: refuses an address by raising ``addresses.Forbidden``.
    """

    def __init__(self, check: Callable[[str], None] = addresses.check) -> None:
        self._check = check
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Fetcher":
        connector = aiohttp.TCPConnector(resolver=addresses.CheckedResolver(self._check), use_dns_cache=False)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def keys(self, uri: str, issuer: str, timeout_s: float) -> str:
        """Return a key set as JSON.

        Args:
            uri: where it is; empty: the issuer says it.
            issuer: who issues the tokens.
            timeout_s: of each request.

        Raises:
            FetchFailed: it cannot be fetched, or is none.
        """
        if not uri:
            if urlsplit(issuer).scheme not in {"http", "https"}:
                raise FetchFailed(
                    f"the issuer {issuer} is no URL that could say where its keys are; set jwksUri or jwks"
                )
            found = await self._json(issuer.rstrip("/") + _DISCOVERY, timeout_s)
            uri = str(found.get("jwks_uri") or "")
            if not uri:
                raise FetchFailed(f"the OpenID configuration of {issuer} has no jwks_uri")
        document = await self._json(uri, timeout_s)
        if not isinstance(document.get("keys"), list) or not document["keys"]:
            raise FetchFailed(f"{uri} has no keys")
        return json.dumps(document)

    async def _json(self, uri: str, timeout_s: float) -> dict[str, Any]:
        try:
            text = await self._get(URL(uri), timeout_s)
            document = json.loads(text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            cause = getattr(error, "os_error", None) or error
            raise FetchFailed(f"{uri} cannot be fetched: {str(cause) or type(error).__name__}") from error
        except ValueError as error:
            raise FetchFailed(f"{uri} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise FetchFailed(f"{uri} is no JSON object")
        return document

    async def _get(self, url: URL, timeout_s: float) -> bytes:
        """Follow redirects here: every place that they lead to is checked as the first one is."""
        assert self._session is not None
        limit = aiohttp.ClientTimeout(total=timeout_s)
        for _ in range(_REDIRECTS + 1):
            self._check_literal(url)
            async with self._session.get(url, allow_redirects=False, timeout=limit) as answer:
                if answer.status in {301, 302, 303, 307, 308} and "location" in answer.headers:
                    url = url.join(URL(answer.headers["location"]))
                    continue
                if answer.status != 200:
                    raise FetchFailed(f"{url} answers with status {answer.status}")
                body = await answer.content.read(_LARGEST + 1)
                while len(body) <= _LARGEST and (more := await answer.content.read(_LARGEST)):
                    body += more
            if len(body) > _LARGEST:
                raise FetchFailed(f"{url} is larger than {_LARGEST} bytes")
            return body
        raise FetchFailed(f"{url}: more than {_REDIRECTS} redirects")

    def _check_literal(self, url: URL) -> None:
        """A host that is an address is not looked up, so it is checked here."""
        if url.scheme not in {"http", "https"} or not url.host:
            raise FetchFailed(f"{url} is no URL of http or https")
        try:
            ipaddress.ip_address(url.host)
        except ValueError:
            return
        self._check(url.host)
