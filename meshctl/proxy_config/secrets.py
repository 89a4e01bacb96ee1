"""Certificates that a proxy has been given; private keys are never in its dump. Pure."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from meshctl.output import Table
from meshctl.proxy_config.dump import Item

_LISTS: Final = (
    ("static_secrets", "ACTIVE"),
    ("dynamic_active_secrets", "ACTIVE"),
    ("dynamic_warming_secrets", "WARMING"),
)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_COLUMNS: Final = ("RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE")


def table(section: Item, now: datetime) -> Table:
    """Return one row for each certificate of each secret; one without certificates is a row, too."""
    rows: list[tuple[str, ...]] = []
    for name, status in _LISTS:
        for one in section.get(name) or ():
            for kind, certificate in _certificates(one.get("secret") or {}):
                rows.append((str(one.get("name", "")), kind, status, *_cells(certificate, now)))
    return Table(_COLUMNS, rows)


def _certificates(secret: Item) -> Iterator[tuple[str, x509.Certificate | None]]:
    for kind, held in (
        ("Cert Chain", (secret.get("tls_certificate") or {}).get("certificate_chain")),
        ("CA", (secret.get("validation_context") or {}).get("trusted_ca")),
    ):
        if held is not None:
            found = _read(held)
            yield from ((kind, one) for one in found)
            if not found:
                yield kind, None
            return
    yield "", None


def _read(held: Item) -> Sequence[x509.Certificate]:
    try:
        text = base64.b64decode(held.get("inline_bytes", "")) or str(held.get("inline_string", "")).encode()
        return x509.load_pem_x509_certificates(text)
    except (binascii.Error, ValueError):
        return []


def _cells(one: x509.Certificate | None, now: datetime) -> tuple[str, str, str, str]:
    if one is None:
        return ("false", "", "", "")
    begin, end = one.not_valid_before_utc, one.not_valid_after_utc
    valid = str(begin <= now.astimezone(UTC) <= end).lower()
    return (valid, f"{one.serial_number:x}", end.strftime(_TIME), begin.strftime(_TIME))
