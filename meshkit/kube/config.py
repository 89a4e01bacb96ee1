"""How to reach the Kubernetes API: from inside a pod, by a kubeconfig, or by explicit values.

The client library reads kubeconfig files and builds TLS contexts; what leaves this module is ``Access``. Tokens of
service accounts are files that the kubelet replaces, so the token is asked for again for every request.
"""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.config import ConfigException, kube_config

from meshapi import names
from meshkit.kube.errors import ConfigError

_TOKEN_LIFE_S = 30.0
"""How long a token read from a file is used before the file is read again; the kubelet renews at 80 % of an hour."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API is and how to prove who we are.

    Attributes:
        configuration: the client library's TLS settings and host.
        authorization: gives the value of the ``Authorization`` header for one request, or ``None``.
    """

    configuration: Configuration
    authorization: Callable[[], Awaitable[str | None]]


async def load(kubeconfig: Path | None = None, context: str | None = None) -> Access:
    """Return access by ``kubeconfig`` if given, else from inside a pod, else by ``$KUBECONFIG`` or the home folder.

    Raises:
        ConfigError: none of them works.
    """
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        return in_cluster()
    return await from_kubeconfig(kubeconfig, context)


def in_cluster(folder: Path = Path(names.SERVICE_ACCOUNT_DIR)) -> Access:
    """Return the access that the kubelet gives to a pod's service account.

    Raises:
        ConfigError: the environment variables or the files are missing.
    """
    try:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    except KeyError as missing:
        raise ConfigError(f"{missing} is not set: not inside a Kubernetes pod; give --kubeconfig") from None
    for file in (folder / "token", folder / "ca.crt"):
        if not file.is_file():
            raise ConfigError(f"{file} is missing; set automountServiceAccountToken: true on the pod")
    address = f"[{host}]" if ":" in host else host
    return explicit(f"https://{address}:{port}", root_file=folder / "ca.crt", token_file=folder / "token")


def explicit(
    server: str,
    *,
    root_file: Path | None = None,
    token_file: Path | None = None,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
) -> Access:
    """Return access by explicit values; ``server`` is a URL."""
    configuration = Configuration(host=server, ssl_ca_cert=str(root_file) if root_file else None)
    configuration.cert_file = str(certificate_file) if certificate_file else None
    configuration.key_file = str(key_file) if key_file else None
    return Access(configuration, _TokenFile(token_file).authorization)


async def from_kubeconfig(file: Path | None = None, context: str | None = None) -> Access:
    """Return access by a kubeconfig file (default ``$KUBECONFIG``, then ``~/.kube/config``).

    Raises:
        ConfigError: the file or the context is missing or wrong.
    """
    _refuse_missing(file)
    configuration = Configuration()
    try:
        await kube_config.load_kube_config(
            config_file=str(file) if file else None, context=context, client_configuration=configuration
        )
    except (ConfigException, OSError) as error:
        raise ConfigError(f"kubeconfig {file or '(default)'}: {error}") from error

    async def authorization() -> str | None:
        settings = await configuration.auth_settings()
        return settings["BearerToken"]["value"] if "BearerToken" in settings else None

    return Access(configuration, authorization)


def _refuse_missing(file: Path | None) -> None:
    """The library goes on without a file, and then misses something inside it."""
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"kubeconfig {file}: there is no such file")
        return
    named = os.environ.get("KUBECONFIG", "")
    candidates = [Path(part) for part in named.split(os.pathsep) if part] or [Path.home() / ".kube" / "config"]
    if not any(path.is_file() for path in candidates):
        looked = ", ".join(str(path) for path in candidates)
        raise ConfigError(f"no kubeconfig at {looked}; set KUBECONFIG or give --kubeconfig")


class _TokenFile:
    """A bearer token in a file that is replaced while we run."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._value: str | None = None
        self._read_at = -_TOKEN_LIFE_S

    async def authorization(self) -> str | None:
        if self._file is None:
            return None
        now = time.monotonic()
        if now - self._read_at >= _TOKEN_LIFE_S:
            # A few hundred bytes from a memory file system: not worth a thread.
            self._value = "Bearer " + self._file.read_text().strip()
            self._read_at = now
        return self._value
