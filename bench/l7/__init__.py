"""Layer 7: requests through a waypoint and through a plain reverse proxy. See ``bench.l7.__main__``."""
