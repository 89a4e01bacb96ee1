"""Gateways at the edge of the mesh: which there are, their listeners, and what is said of these. Pure.

Source: Gateway API v1, ``Gateway``, ``Listener`` and ``ListenerSet``.
"""
