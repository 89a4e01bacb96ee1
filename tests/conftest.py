"""Settings of all tests."""

from hypothesis import settings

# A deadline of wall-clock time fails on a busy machine, whatever the code does.
settings.register_profile("culvert", deadline=None)
settings.load_profile("culvert")
