"""Session persistence of the Gateway API. Pure. Source: Gateway API, ``SessionPersistence`` (GEP-1619).

The proxy notes the endpoint in a cookie or a header of the response, and takes the one that the client sends back while
it is there and healthy.
"""

import hashlib
import re
from typing import Final

from controlplane.routing.ir import Session
from controlplane.routing.route_filters import Unsupported
from meshapi.resources.gateway_routes import CookieLifetime, SessionPersistence, SessionType

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Names of cookies (RFC 6265) and headers (RFC 9110)."""


def of_persistence(given: SessionPersistence, owner: str) -> Session:
    """Return the session.

    Args:
        given: what the user has written.
        owner: the object and its rule; sessions of different ones without a name do not meet.

    Raises:
        Unsupported: a field asks for what is not supported.
    """
    is_header = given.type is SessionType.HEADER
    name = given.session_name or f"culvert-session-{hashlib.blake2b(owner.encode(), digest_size=8).hexdigest()}"
    if not _TOKEN.fullmatch(name):
        raise Unsupported("sessionPersistence.sessionName", f"{name!r} is no name of a cookie or header; write a token")
    is_permanent = given.cookie_config is not None and given.cookie_config.lifetime_type is CookieLifetime.PERMANENT
    if given.absolute_timeout is not None and (is_header or not is_permanent):
        raise Unsupported(
            "sessionPersistence.absoluteTimeout",
            "is supported for permanent cookies only; write cookieConfig.lifetimeType Permanent",
        )
    return Session(name, is_header, given.absolute_timeout if is_permanent else None)
