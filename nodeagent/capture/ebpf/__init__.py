"""Capture by BPF: ``rules`` plans, ``facts`` reads what the plan depends on, ``node`` and ``pod`` apply."""
