"""Measurements: ratios of alternating rounds on one machine. What they stand for is in ``docs/performance.md``."""
