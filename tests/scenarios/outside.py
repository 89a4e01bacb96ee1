"""A client outside of the mesh, which calls a gateway's port: HTTP, TLS, or any bytes."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import aiohttp
from cryptography import x509
from yarl import URL

from tests.scenarios.answers import Answer
from tests.scenarios.files import ClientTls, Request
from tests.scenarios.world import World

HOST = "127.0.0.1"


async def send(running: World, request: Request) -> list[Answer]:
    """Send a request as often as it says."""
    if request.datagram:
        return [await _datagram(request) for _ in range(request.times)]
    if request.raw or request.tls_name:
        return [await _raw(running, request) for _ in range(request.times)]
    if request.tls is not None:
        return [await _https(running, request, request.tls) for _ in range(request.times)]
    async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        return [await _http(session, request) for _ in range(request.times)]


async def _http(session: aiohttp.ClientSession, request: Request, tls: ssl.SSLContext | None = None) -> Answer:
    name = (request.tls.name if request.tls is not None else "") or request.host
    scheme = "http" if tls is None else "https"
    port = request.port or (80 if tls is None else 443)
    started = time.monotonic()
    try:
        async with session.request(
            request.method,
            URL(f"{scheme}://{HOST}:{port}{request.path}", encoded=True),
            headers={"Host": request.host, **request.headers},
            data=request.body or None,
            allow_redirects=False,
            ssl=tls or False,
            server_hostname=name if tls is not None else None,
        ) as answer:
            text = (await answer.read()).decode(errors="replace")
            headers = {key.lower(): value for key, value in answer.headers.items()}
            return Answer(answer.status, headers, text, time.monotonic() - started)
    except (aiohttp.ClientError, OSError) as error:
        return Answer(None, {}, str(error), time.monotonic() - started)


async def _https(running: World, request: Request, tls: ClientTls) -> Answer:
    """A request over a connection of its own, whose server's certificate is read first."""
    context = _context(running, tls)
    names = await _names(context, tls.name or request.host, request.port or 443)
    async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        answer = await _http(session, request, context)
    return Answer(answer.status, answer.headers, answer.body, answer.took_s, names)


def _context(running: World, tls: ClientTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=running.authority.roots.decode())
    context.check_hostname = not tls.anyone
    if tls.newest:
        context.maximum_version = ssl.TLSVersion[tls.newest]
    if tls.ciphers:
        context.set_ciphers(tls.ciphers)
    if tls.certificate:
        context.load_cert_chain(*_pair(running.folder, tls.certificate))
    return context


def _pair(folder: Path, whose: str) -> Iterable[Path]:
    return folder / f"{whose}.pem", folder / f"{whose}-key.pem"


async def _names(context: ssl.SSLContext, name: str, port: int) -> tuple[str, ...]:
    """The names in the certificate that the server shows for a name; none: there is no TLS."""
    try:
        _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname=name)
    except OSError:
        return ()
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    found = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return tuple(str(one.value) for one in found.value)


async def _datagram(request: Request) -> Answer:
    """A datagram, and what comes back."""
    started, loop = time.monotonic(), asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((HOST, request.port))
        body = ""
        with contextlib.suppress(OSError, TimeoutError):
            await loop.sock_sendall(client, request.datagram.encode())
            body = (await asyncio.wait_for(loop.sock_recv(client, 1000), 1)).decode()
    version, _, rest = body.partition(" ")
    return Answer(None, {"x-version": version}, rest, time.monotonic() - started)


async def _raw(running: World, request: Request) -> Answer:
    """Bytes over TCP, or over TLS; what comes back until the end."""
    context = None if request.tls is None else _context(running, request.tls)
    name = None if request.tls is None else request.tls.name or request.host
    started, body = time.monotonic(), ""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(HOST, request.port, ssl=context, server_hostname=name)
        try:
            writer.write(client_hello(request.tls_name, request.alpn) if request.tls_name else request.raw.encode())
            if context is None and not request.tls_name:
                writer.write_eof()
            body = (await asyncio.wait_for(reader.read(), 5)).decode(errors="replace")
        finally:
            writer.close()
            await writer.wait_closed()
    version, _, rest = body.partition(" ")
    return Answer(None, {"x-version": version}, rest, time.monotonic() - started)


def client_hello(name: str, alpn: Sequence[str] = ()) -> bytes:
    """What a TLS client sends first."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(alpn)
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()
