"""What can go wrong in the certificate authority.

::

    CaError
    ├── BadAuthority        the root or signing certificate in a secret cannot be used: the operator must act
    ├── BadRequest          the certificate request cannot be read or is too weak: the caller must act
    └── Refused             the caller may not have that identity; the reason is in the log only, not sent
        └── NoPodOnNode     no pod of that identity on the caller's node: may be a matter of milliseconds
"""


class CaError(Exception):
    """A request to the certificate authority failed."""


class BadAuthority(CaError):
    """The certificate authority's own key or certificate cannot be used."""


class BadRequest(CaError):
    """A certificate request cannot be used."""


class Refused(CaError):
    """The caller may not have the requested identity."""


class NoPodOnNode(Refused):
    """No pod with the identity is known on the caller's node. It may just not be known *yet*."""
