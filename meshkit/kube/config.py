"""How to reach the Kubernetes API: from inside a pod, by a kubeconfig, or by explicit values.

The client library reads kubeconfig files; what leaves this module is ``Access``. Tokens of service accounts are files
that the kubelet replaces, so the token is read again for every request.
"""

import os
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from meshapi import names
from meshkit.kube.errors import ConfigError

_TOKEN_LIFE_S = 30.0
"""How long a token read from a file is used before the file is read again; the kubelet renews at 80 % of an hour."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API is and how to prove who we are.

    Attributes:
        server: URL.
        authorization: gives the value of the ``Authorization`` header for one request, or ``None``.
        roots: PEM file that the server's certificate is checked against; ``None``: the system's.
        certificate: PEM file of ours, with ``key``.
        verify: whether the server's certificate is checked at all.
        strict: whether it has to be as RFC 5280 wants it.
        server_name: the name in it, where that is not the one in ``server``.
        proxy: URL of an HTTP proxy.
    """

    server: str
    authorization: Callable[[], Awaitable[str | None]]
    roots: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True
    strict: bool = True
    server_name: str | None = None
    proxy: str | None = None

    def tls(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            ConfigError: one of them is missing or wrong.
        """
        reading: object = self.roots
        try:
            made = ssl.create_default_context(cafile=self.roots)
            if self.certificate is not None:
                for reading in filter(None, (self.certificate, self.key)):
                    reading.open("rb").close()  # of a file that is missing, the next step would not say which
                reading = f"{self.certificate} with the key {self.key or 'in it'}"
                made.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise ConfigError(f"cannot speak TLS to {self.server}: {reading}: {error}") from error
        if not self.verify:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        if not self.strict:
            made.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return made


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
    authorization = _TokenFile(token_file).authorization
    return Access(server, authorization, roots=root_file, certificate=certificate_file, key=key_file)


async def from_kubeconfig(file: Path | None = None, context: str | None = None) -> Access:
    """Return access by a kubeconfig file (default ``$KUBECONFIG``, then ``~/.kube/config``).

    Raises:
        ConfigError: the file or the context is missing or wrong.
    """
    # Costs 36 MB, which a pod does not need.
    from kubernetes_asyncio.client.configuration import Configuration  # noqa: PLC0415
    from kubernetes_asyncio.config import ConfigException, kube_config  # noqa: PLC0415

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

    return Access(
        str(configuration.host),
        authorization,
        roots=_path(configuration.ssl_ca_cert),
        certificate=_path(configuration.cert_file),
        key=_path(configuration.key_file),
        verify=configuration.verify_ssl,
        strict=not configuration.disable_strict_ssl_verification,
        server_name=configuration.tls_server_name,
        proxy=configuration.proxy,
    )


def _path(file: str | None) -> Path | None:
    return Path(file) if file else None


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
