"""Plumbing that two processes need: Kubernetes, discovery streams, the kernel, admin pages, logs, settings.

Nothing here knows what a mesh is.
"""
