"""Capture by iptables: the legacy kernel interface, or the one of nftables."""
