"""Kubeconfig files: who a client is and where the API server is, with everything embedded."""

import base64
import json

from meshlab.pki import Pair


def render(*, server: str, ca: bytes, user: str, pair: Pair, cluster: str) -> bytes:
    """Return a kubeconfig (JSON, which is YAML)."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": _text(ca)}}],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _text(pair.certificate),
                    "client-key-data": _text(pair.key),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
