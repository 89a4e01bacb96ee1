"""Capturing a pod's traffic: the desired state of its network namespace (``plan``), and a backend that makes it so."""
