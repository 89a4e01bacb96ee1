"""Rollouts under load: what a waypoint's and a backend's changes cost clients. See ``bench.rollouts.__main__``."""
