"""Capture by nftables."""
