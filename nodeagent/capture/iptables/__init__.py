"""Capture by iptables: ``rules`` plans, ``pod`` and ``probes`` apply, ``tables`` says how a table is reached."""
