"""The few calls that the lab makes to its API server: is it ready, apply, read.

Not a client library: `kubectl` and `meshkit.kube` are for everybody else.
"""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any, cast

from meshlab.errors import ComponentFailed

Resource = dict[str, Any]

_TIMEOUT_S = 10.0
_FIELD_MANAGER = "culvert-lab"


class Api:
    """Speaks to one API server as the lab's admin. Blocking; each call has a connection of its own."""

    def __init__(self, *, host: str, port: int, ca: Path, certificate: Path, key: Path) -> None:
        self._host, self._port = host, port
        self._files = (ca, certificate, key)

    def ready(self) -> bool:
        """Say whether the server answers and calls itself ready."""
        try:
            return self._call("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def read(self, path: str) -> Resource:
        """Return a resource or a list.

        Raises:
            ComponentFailed: the server refuses or cannot be reached.
        """
        try:
            status, body = self._call("GET", path)
        except (OSError, http.client.HTTPException) as error:
            raise ComponentFailed(f"API server at {self._host}:{self._port} does not answer: {error}") from error
        if status != 200:
            raise ComponentFailed(f"API server refused GET {path} with {status}: {body.decode(errors='replace')}")
        return cast("Resource", json.loads(body))

    def apply(self, resource: Resource) -> None:
        """Apply a resource on the server's side.

        Raises:
            ComponentFailed: the server refuses it.
        """
        path = resource_path(resource)
        query = f"?fieldManager={_FIELD_MANAGER}&force=true"
        status, body = self._call("PATCH", path + query, json.dumps(resource).encode())
        if status not in (200, 201):
            raise ComponentFailed(f"API server refused {path} with {status}: {body.decode(errors='replace')}")

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        ca, certificate, key = self._files
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(certificate, key)
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)
        try:
            connection.request(method, path, body, {"Content-Type": "application/apply-patch+yaml"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def resource_path(resource: Resource) -> str:
    """Return where a resource is on the server; the plural is regular for everything that the lab applies."""
    version, metadata = resource["apiVersion"], resource["metadata"]
    prefix = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{prefix}{namespace}/{resource['kind'].lower()}s/{metadata['name']}"
