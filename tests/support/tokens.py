"""JSON Web Tokens for tests: a key, its key set (RFC 7517), and signed tokens (RFC 7519, ES256)."""

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "issuer@example.com"


class TokenIssuer:
    """An issuer with one key."""

    def __init__(self, key_id: str = "one") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_id = key_id

    @property
    def key_set(self) -> str:
        numbers = self._key.public_key().public_numbers()
        key = {
            "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self._key_id,
            "x": _encoded(numbers.x.to_bytes(32)), "y": _encoded(numbers.y.to_bytes(32)),
        }  # fmt: skip
        return json.dumps({"keys": [key]})

    def token(self, claims: dict[str, Any]) -> str:
        """A signed token: with issuer, subject and an hour to live, unless the claims say otherwise (None: without)."""
        head = {"alg": "ES256", "kid": self._key_id, "typ": "JWT"}
        body = {"iss": ISSUER, "sub": "alice", "exp": int(time.time()) + 3600, **claims}
        body = {name: value for name, value in body.items() if value is not None}
        signed = f"{_encoded(json.dumps(head).encode())}.{_encoded(json.dumps(body).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32) + s.to_bytes(32))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
