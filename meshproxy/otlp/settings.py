"""Where and how the access log is exported. The environment's names are those of OpenTelemetry's specification.

"OpenTelemetry Protocol Exporter" there: what is named ``..._LOGS_...`` wins over what is for all signals.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator

from meshkit.log import logger
from meshkit.settings import ProcessSettings

_DEFAULT_PORT = 4317
_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
_log = logger("otlp")


class Protocol(StrEnum):
    """How the collector is spoken to."""

    GRPC = "grpc"


class Compression(StrEnum):
    """How requests are compressed."""

    NONE = "none"
    GZIP = "gzip"


def _names(field: str) -> AliasChoices:
    name = field.removeprefix("otlp_").upper()
    return AliasChoices(field, f"OTEL_EXPORTER_OTLP_LOGS_{name}", f"OTEL_EXPORTER_OTLP_{name}")


class OtlpSettings(ProcessSettings):
    """Settings of the export."""

    otlp_endpoint: str = Field(
        default="",
        validation_alias=_names("otlp_endpoint"),
        description="OpenTelemetry collector that connections are logged to, beside --access-log, as "
        "http[s]://host:port; empty is none.",
    )
    otlp_protocol: Protocol = Field(
        default=Protocol.GRPC, validation_alias=_names("otlp_protocol"), description="How the collector is spoken to."
    )
    otlp_insecure: bool = Field(
        default=False,
        validation_alias=_names("otlp_insecure"),
        description="Speak plain text to a collector whose endpoint has no scheme.",
    )
    otlp_certificate: Path | None = Field(
        default=None,
        validation_alias=_names("otlp_certificate"),
        description="PEM file of the roots that the collector is checked against; none: gRPC's own list.",
    )
    otlp_client_certificate: Path | None = Field(
        default=None,
        validation_alias=_names("otlp_client_certificate"),
        description="PEM file of the certificate that is shown to the collector.",
    )
    otlp_client_key: Path | None = Field(
        default=None, validation_alias=_names("otlp_client_key"), description="PEM file of that certificate's key."
    )
    otlp_headers: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=_names("otlp_headers"),
        description="Metadata of each request, as name=value,name=value (percent-encoded).",
    )
    otlp_compression: Compression = Field(
        default=Compression.NONE,
        validation_alias=_names("otlp_compression"),
        description="How requests are compressed: none or gzip.",
    )
    otlp_timeout: int = Field(
        default=10_000, ge=1, validation_alias=_names("otlp_timeout"), description="Timeout of one request, in ms."
    )
    otlp_schedule_delay: int = Field(
        default=1_000,
        ge=0,
        validation_alias=AliasChoices("otlp_schedule_delay", "OTEL_BLRP_SCHEDULE_DELAY"),
        description="How long records wait for others, in ms.",
    )
    otlp_max_queue_size: int = Field(
        default=20_000,
        ge=1,
        validation_alias=AliasChoices("otlp_max_queue_size", "OTEL_BLRP_MAX_QUEUE_SIZE"),
        description="Records that wait while the collector is away; beyond, the oldest are dropped and counted.",
    )
    otlp_service_name: str = Field(
        default="ztunnel",
        validation_alias=AliasChoices("otlp_service_name", "OTEL_SERVICE_NAME"),
        description="Resource attribute service.name of the exported log.",
    )
    otlp_resource_attributes: str = Field(
        default="",
        validation_alias=AliasChoices("otlp_resource_attributes", "OTEL_RESOURCE_ATTRIBUTES"),
        description="Further resource attributes, as name=value,name=value (percent-encoded).",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        if endpoint:
            Endpoint.parse(endpoint, plain_by_default=False)
        return endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A collector.

    Attributes:
        target: as ``collector.observe.svc:4317``.
        is_plain: without TLS.
    """

    target: str
    is_plain: bool

    @classmethod
    def parse(cls, text: str, *, plain_by_default: bool) -> "Endpoint":
        """Read an endpoint; the port may be left out (4317), the scheme too.

        Raises:
            ValueError: it is none, with the fix.
        """
        scheme, separator, rest = text.rpartition("://")
        if separator and scheme not in ("http", "https"):
            raise ValueError(f"{scheme}:// is not spoken; write http://host:port or https://host:port")
        parts = urlsplit(f"//{rest}")
        if not parts.hostname or parts.username is not None:
            raise ValueError("no host; write http://host:port or https://host:port")
        if parts.path not in ("", "/") or parts.query:
            raise ValueError(f"gRPC knows no path; leave out {parts.path or parts.query}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        is_plain = scheme == "http" if separator else plain_by_default
        return cls(f"{host}:{parts.port or _DEFAULT_PORT}", is_plain)


def metadata(text: str, *, what: str) -> tuple[tuple[str, str], ...]:
    """Read headers as metadata of gRPC calls; what cannot be one is left out and logged by its place."""
    found = []
    for place, (name, value) in enumerate(pairs(text, what=what).items(), 1):
        key = name.lower()
        if _METADATA_KEY.fullmatch(key) and not key.endswith("-bin") and value.isascii() and value.isprintable():
            found.append((key, value))
        else:
            _log.warning("not a header that gRPC can send, left out", setting=what, place=place)
    return tuple(found)


def pairs(text: str, *, what: str) -> dict[str, str]:
    """Read ``name=value,name=value``; what is neither is left out and logged by its place: it may be a secret."""
    found = {}
    for place, member in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        name, separator, value = member.partition("=")
        if separator and name.strip():
            found[unquote(name.strip())] = unquote(value.strip())
        else:
            _log.warning("not a pair, left out; write name=value,name=value", setting=what, place=place)
    return found
