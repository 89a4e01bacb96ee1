"""The mesh as it is: what the registry has read, indexed, and what follows from it. No I/O, no tasks."""
