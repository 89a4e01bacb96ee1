"""Virtual addresses for hosts of ServiceEntries that have none: which (``pool``), and when they are written."""
