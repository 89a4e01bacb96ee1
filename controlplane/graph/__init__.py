"""Collections of values that depend on each other, recomputed where something has changed. Knows no kind of object."""
