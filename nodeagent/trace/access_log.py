"""Entries of ztunnel's access log as they are written, from its socket. Source of the fields: Istio's ztunnel."""

import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from nodeagent.trace.events import Endpoint

_FIELD: Final = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S+)')
_MESSAGE: Final = "connection complete"
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A connection that has ended, as one of its ends reports it.

    Attributes:
        ended_s: since the epoch, UTC.
        duration_s: in steps of a millisecond, as it is written.
        is_inbound: the called pod's end reports it.
        source: the client; inbound, where a tunnel carried it, the tunnel's own end.
        destination: what was dialled: the peer's tunnel, or the application.
        target: of what came through a tunnel, what it asked for.
        fields: all, as they are written.
    """

    ended_s: float
    duration_s: float
    is_inbound: bool
    source: Endpoint
    destination: Endpoint
    target: Endpoint | None
    fields: Mapping[str, str]

    @property
    def began_s(self) -> float:
        """When it was open at both ends, up to a millisecond early; of one that never was, when that was known."""
        return self.ended_s - self.duration_s

    @property
    def error(self) -> str:
        """Why it ended, if it did not by itself."""
        return self.fields.get("error", "")


class NoAccessLog(Exception):
    """ztunnel's socket cannot be read; the text is one sentence."""


class Reader:
    """Reads from ztunnel's socket; does not block."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._rest = b""
        self.unread = 0
        """Lines that are no entry of the access log in a form that is known, as with a format of the user's own."""
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise NoAccessLog(f"ztunnel's access log cannot be read at {path}: {error.strerror}") from error

    def poll(self, timeout_s: float) -> list[Entry]:
        """Wait for entries.

        Raises:
            NoAccessLog: ztunnel has closed the socket.
        """
        self._socket.settimeout(max(timeout_s, 1e-3))
        try:
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            return []
        if not data:
            raise NoAccessLog("ztunnel has ended, or this reads more slowly than it writes; start again")
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = [parse(line.decode(errors="replace")) for line in lines]
        self.unread += found.count(None)
        return [entry for entry in found if entry is not None]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def parse(line: str) -> Entry | None:
    """Return the entry of a line, text or JSON; nothing if it is none."""
    fields = _fields(line)
    if fields is None or "src.addr" not in fields or "duration" not in fields:
        return None
    target = fields.get("dst.hbone_addr", "")
    return Entry(
        ended_s=datetime.fromisoformat(fields["time"].replace("Z", "+00:00")).timestamp(),
        duration_s=float(fields["duration"].removesuffix("ms")) / 1000,
        is_inbound=fields.get("direction") == "inbound",
        source=endpoint(fields["src.addr"]),
        destination=endpoint(fields.get("dst.addr", ":0")),
        target=endpoint(target) if target else None,
        fields=fields,
    )


def endpoint(text: str) -> Endpoint:
    """Return address and port of ``10.0.0.1:80`` or ``[fd00::1]:80``."""
    address, _, port = text.rpartition(":")
    return address.removeprefix("[").removesuffix("]"), int(port)


def _fields(line: str) -> dict[str, str] | None:
    if line.startswith("{"):
        try:
            document = json.loads(line)
        except ValueError:
            return None
        return {key: str(value) for key, value in document.items()} if document.get("message") == _MESSAGE else None
    parts = line.split("\t", 4)
    if len(parts) != 5 or parts[2:4] != ["access", _MESSAGE]:
        return None
    values = {key: str(json.loads(text)) if text[0] == '"' else text for key, text in _FIELD.findall(parts[4])}
    return {"time": parts[0], **values}
