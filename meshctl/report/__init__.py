"""What goes into a bug report: collected piece by piece, cleaned of secrets, packed."""
