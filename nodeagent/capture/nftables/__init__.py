"""Capture by nftables: ``rules`` plans, ``pod`` and ``probes`` apply."""
