"""What can go wrong on discovery streams.

::

    DiscoveryError
    ├── Unauthenticated     the caller's proof of identity is missing or wrong; carries the reason for our log only
    ├── Denied              the caller is known, and this is not for it
    └── BadSecret           an SDS answer does not hold what was asked for
"""


class DiscoveryError(Exception):
    """A discovery stream cannot go on."""


class Unauthenticated(DiscoveryError):
    """The caller is nobody we know. The reason goes to our log; the caller is told nothing that helps guessing."""


class Denied(DiscoveryError):
    """The caller may not have what it asks for; the text is for the caller."""


class BadSecret(DiscoveryError):
    """A secret from SDS is not a certificate with its key, nor a validation context."""
