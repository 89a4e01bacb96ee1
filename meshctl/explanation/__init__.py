"""Why a connection is carried or refused, and by which path: as the proxies of both of its ends have it."""
