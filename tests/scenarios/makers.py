"""Certificates of a scenario: Secrets, and files in the proxy's pod."""

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.authority import TestAuthority

Json = dict[str, Any]
_PAIRS = {"tls": ("tls.crt", "tls.key"), "generic": ("cert", "key")}
_ROOTS = {"tls": ("ca.crt", "ca.crl"), "generic": ("cacert", "crl")}


class Makers:
    """Who issues the certificates of a scenario."""

    def __init__(self, own: TestAuthority, stranger: TestAuthority) -> None:
        self._own = own
        self._stranger = stranger
        self._revoked = own.issue_for_hosts("revoked.example")

    def secret(self, wanted: Json) -> Json:
        """A Secret: a certificate for ``hosts``; ``flaw``: ``expired``, ``other key``, ``no key`` or ``garbage``.

        ``roots``: of clients' certificates, ``own`` or ``other``; ``revokes``: with a list that has ``revoked``;
        ``form``: ``tls`` (which is the default) or ``generic``, the names of its keys.
        """
        data = {**self._pair(wanted), **self._roots(wanted)}
        return {"data": {name: base64.b64encode(value).decode() for name, value in data.items()}}

    def write_files(self, folder: Path) -> None:
        """Write the certificates that resources name as ``$FILES/…``."""
        (folder / "ca.pem").write_bytes(self._own.roots)
        (folder / "other-ca.pem").write_bytes(self._stranger.roots)
        (folder / "revoked-list.pem").write_bytes(self._own.revocation_list(self._revoked[0]))
        pairs = {
            "client": self._own.issue_for_hosts("client.example"),
            "stranger": self._stranger.issue_for_hosts("client.example"),
            "revoked": self._revoked,
            "mesh": self._own.issue("spiffe://cluster.local/ns/shop/sa/caller"),
        }
        for name, (chain, key) in pairs.items():
            (folder / f"{name}.pem").write_bytes(chain)
            (folder / f"{name}-key.pem").write_bytes(key)

    def _roots(self, wanted: Json) -> dict[str, bytes]:
        names_of = _ROOTS[wanted.get("form", "tls")]
        if "roots" not in wanted:
            return {}
        roots = {"own": self._own, "other": self._stranger}[wanted["roots"]].roots
        revoked = {names_of[1]: self._own.revocation_list(self._revoked[0])} if wanted.get("revokes") else {}
        return {names_of[0]: roots, **revoked}

    def _pair(self, wanted: Json) -> dict[str, bytes]:
        if "hosts" not in wanted:
            return {}
        names_of = _PAIRS[wanted.get("form", "tls")]
        life = timedelta(seconds=-1) if wanted.get("flaw") == "expired" else timedelta(hours=1)
        chain, key = self._own.issue_for_hosts(*wanted["hosts"], life=life)
        if wanted.get("flaw") == "other key":
            _, key = self._own.issue_for_hosts(*wanted["hosts"])
        data = {names_of[0]: chain, names_of[1]: key}
        if wanted.get("flaw") == "no key":
            del data[names_of[1]]
        if wanted.get("flaw") == "garbage":
            data[names_of[0]] = b"Hello world"
        return data
