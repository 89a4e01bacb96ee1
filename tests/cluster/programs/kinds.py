"""Calls of three kinds, and how each ends: ``serve CERT KEY``, or ``call N HOST...``, which prints one JSON document.

A call ends as ``ok`` (the whole answer), ``eof`` or ``reset`` (after the connect, without a byte of an answer),
``partial``, ``timeout``, or ``connect: NAME`` where the connect itself failed.
"""

import asyncio
import collections
import json
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable

PORTS = {"tcp": 9000, "http": 9080, "https": 9443}
TIMEOUT_S = 5.0
PARALLEL = 16
REQUEST = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"
CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT.check_hostname, CLIENT.verify_mode = False, ssl.CERT_NONE
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await _close(writer)


async def _respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER)
    await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass


def _quiet(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    return handler


async def serve(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    servers = [
        await asyncio.start_server(_quiet(_echo), "", PORTS["tcp"], backlog=1024),
        await asyncio.start_server(_quiet(_respond), "", PORTS["http"], backlog=1024),
        await asyncio.start_server(_quiet(_respond), "", PORTS["https"], ssl=context, backlog=1024),
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def call(host: str, kind: str) -> str:
    loop = asyncio.get_running_loop()
    try:
        address = (await loop.getaddrinfo(host, PORTS[kind], family=2, type=1))[0][4]
    except OSError as error:
        return f"name: {error}"
    try:
        made = socket.socket()
        made.setblocking(False)
        async with asyncio.timeout(TIMEOUT_S):
            await loop.sock_connect(made, address)
    except (OSError, TimeoutError) as error:
        made.close()
        return f"connect: {type(error).__name__}"
    received, writer = b"", None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            tls = {"ssl": CLIENT, "server_hostname": "server"} if kind == "https" else {}
            reader, writer = await asyncio.open_connection(sock=made, **tls)
            writer.write(b"hello\n" if kind == "tcp" else REQUEST)
            while part := await reader.read(4096):
                received += part
    except TimeoutError:
        return "timeout"
    except (ConnectionError, ssl.SSLError) as error:
        return _ended(received, "eof" if isinstance(error, ssl.SSLEOFError) else "reset")
    finally:
        made.close() if writer is None else writer.close()
    return "ok" if received == (b"hello\n" if kind == "tcp" else ANSWER) else _ended(received, "eof")


def _ended(received: bytes, how: str) -> str:
    return "partial" if received else how


async def calls(number: int, hosts: list[str]) -> dict[str, dict[str, int]]:
    outcomes = {}
    for host in hosts:
        for kind in PORTS:
            limit = asyncio.Semaphore(PARALLEL)

            async def one(host: str = host, kind: str = kind, limit: asyncio.Semaphore = limit) -> str:
                async with limit:
                    return await call(host, kind)

            outcomes[f"{kind} {host}"] = dict(
                collections.Counter(await asyncio.gather(*(one() for _ in range(number))))
            )
    return outcomes


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(*sys.argv[2:]))
    else:
        print(json.dumps(asyncio.run(calls(int(sys.argv[2]), sys.argv[3:]))))
