"""``extensionProviders`` that take access logs. Source: istio/api, ``mesh/v1alpha1/config.proto``."""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from meshapi.mesh_config import access_log_format
from meshapi.resources.base import Model

_OUTPUT: Final = "/dev/stdout"
_HEADER_NAME: Final = re.compile(r":?[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def _text(value: str) -> str:
    access_log_format.check_envoy(value)
    return value


def _labels(value: dict[str, Any]) -> dict[str, Any]:
    access_log_format.check_envoy(value)
    return value


def _or_output(value: Any) -> Any:
    return value or _OUTPUT


def header_name(value: str) -> str:
    """Check the name of a header (RFC 9110, section 5.1); a colon leads the pseudo-headers of HTTP/2.

    Raises:
        ValueError: it is none.
    """
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("is not the name of a header; write it as x-name")
    return value


HeaderName = Annotated[str, Field(min_length=1), AfterValidator(header_name)]
Text = Annotated[str, AfterValidator(_text)]
Labels = Annotated[dict[str, Any], AfterValidator(_labels)]


class Message(Model):
    """A message that keeps the fields that it does not know, for warnings."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")


class Collector(Message):
    """A service of the mesh that something is sent to."""

    service: str = Field(min_length=1)
    """``namespace/host`` or ``host``."""
    port: int = Field(ge=1, le=65535)

    @property
    def host(self) -> str:
        """The host name of the service."""
        return self.service.rpartition("/")[2]

    @property
    def is_grpc(self) -> bool:
        """Whether it is spoken to in gRPC."""
        return True


class FileFormat(Message):
    """Form of a file's lines: a text, or an object of JSON; an object without labels is the default one."""

    text: Text | None = None
    labels: Labels | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> "FileFormat":
        if self.text is not None and self.labels is not None:
            raise ValueError("text and labels exclude each other; keep one of them")
        return self


class FileLog(Message):
    """A file of the proxy."""

    path: Annotated[str, BeforeValidator(_or_output)] = _OUTPUT
    log_format: FileFormat | None = None
    omit_empty_values: bool = False


class RecordFormat(Message):
    """Form of OpenTelemetry's log records: the body, and the attributes."""

    text: Text = ""
    labels: Labels = Field(default_factory=dict)


class OpenTelemetryLog(Collector):
    """A collector of OpenTelemetry's log records, over gRPC."""

    log_name: str = ""
    log_format: RecordFormat | None = None


class EnvoyLog(Collector):
    """Envoy's access log service (gRPC)."""

    log_name: str = ""
    filter_state_objects_to_log: tuple[str, ...] = ()


class ConnectionLog(EnvoyLog):
    """Envoy's access log service (gRPC), for connections."""


class RequestLog(EnvoyLog):
    """Envoy's access log service (gRPC), for requests."""

    additional_request_headers_to_log: tuple[HeaderName, ...] = ()
    additional_response_headers_to_log: tuple[HeaderName, ...] = ()
    additional_response_trailers_to_log: tuple[HeaderName, ...] = ()
