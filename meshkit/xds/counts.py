"""Counters of a discovery client: responses, and why streams ended, in the words of Istio's ztunnel."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from envoy.service.discovery.v3 import discovery_pb2


class End(StrEnum):
    """Why a stream to the server ended."""

    CONNECTION_ERROR = "ConnectionError"
    """No stream was opened."""
    ERROR = "Error"
    """The stream failed."""
    RECONNECT = "Reconnect"
    """The server ended the stream in normal operation: a restart, the stream's age."""
    COMPLETE = "Complete"
    """The server closed the stream without an error."""


class StreamCounts:
    """Counters since the start; every key that is known beforehand is there from then on.

    Args:
        type_urls: the types that are subscribed to.
    """

    def __init__(self, type_urls: Iterable[str]) -> None:
        self.messages = Counter(dict.fromkeys(type_urls, 0))
        """Responses by type URL."""
        self.message_bytes = Counter(dict.fromkeys(self.messages, 0))
        """Bytes of the resources in them."""
        self.ends = Counter(dict.fromkeys(End, 0))

    def received(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        """Count a response of a type that is subscribed to."""
        self.messages[response.type_url] += 1
        self.message_bytes[response.type_url] += sum(len(item.resource.value) for item in response.resources)
