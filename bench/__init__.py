"""Measurements: ratios of alternating rounds on one machine. They are explained in ``docs/performance.md``."""
