"""Capturing a pod's traffic: what shall be so in its network namespace (``plan``), and a backend that makes it so."""
