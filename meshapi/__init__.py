"""Data types that every part of Culvert shares. No input, no output, no policy.

Nothing here opens a socket, reads a file or starts a task, so anything may import it.
"""
