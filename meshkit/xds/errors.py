"""What can go wrong on discovery streams.

::

    DiscoveryError
    ├── Unauthenticated     the caller's proof of identity is missing or wrong; carries the reason for our log only
    ├── Denied              the caller is known, and this is not for it
    ├── Unserved            the caller's first request is for a type that is not served to it
    └── BadSecret           an SDS response lacks the requested secret
"""


class DiscoveryError(Exception):
    """A discovery stream cannot go on."""


class Unauthenticated(DiscoveryError):
    """The caller is not authenticated. The reason goes to the log only; the caller gets nothing that helps guessing."""


class Denied(DiscoveryError):
    """The caller is not authorized; the text is sent to it."""


class Unserved(DiscoveryError):
    """The caller's first request is for a type that is not served to it; the text is sent to it."""


class BadSecret(DiscoveryError):
    """A secret from SDS is not a certificate with its key, nor a validation context."""
