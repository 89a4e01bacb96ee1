"""What can go wrong between us and the Kubernetes API.

::

    KubeError
    ├── ConfigError         how to reach the API is unknown or wrong: the operator must act, retrying is useless
    ├── Unreachable         no answer, or the answer broke off: retry
    └── ApiError            the API answered with a refusal (carries status, reason, message)
        ├── NotFound        404: no such object, or no such kind (its definition is not installed)
        ├── Conflict        409: exists already, or changed since it was read: read again and retry
        ├── Gone            410: the resource version is too old: list again
        └── Forbidden       401 or 403: the service account lacks the right that the message names
"""

from dataclasses import dataclass
from typing import Final


class KubeError(Exception):
    """A request to the Kubernetes API failed."""


class ConfigError(KubeError):
    """How to reach the Kubernetes API cannot be found out; the message names the file or variable."""


class Unreachable(KubeError):
    """The Kubernetes API gave no (complete) answer. Try again."""


@dataclass(eq=False)
class ApiError(KubeError):
    """The API server refused.

    Attributes:
        status: HTTP status.
        reason: machine-readable reason, as ``AlreadyExists``; may be empty.
        message: the API server's sentence.
        request: method and path that were refused.
    """

    status: int
    reason: str
    message: str
    request: str

    def __str__(self) -> str:
        return f"{self.request}: {self.status} {self.reason}: {self.message}"


class NotFound(ApiError):
    """No such object, or no such kind."""


class Conflict(ApiError):
    """The object exists already, or has changed since it was read."""


class Gone(ApiError):
    """The requested resource version is no longer kept."""


class Forbidden(ApiError):
    """Not authenticated, or the right is missing."""


_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
}


def from_status(status: int, body: object, request: str) -> ApiError:
    """Return the error for a ``Status`` object or any other body of a refusal."""
    fields = body if isinstance(body, dict) else {"message": str(body)}
    kind = _BY_STATUS.get(status, ApiError)
    return kind(status, str(fields.get("reason", "")), str(fields.get("message", "")), request)
