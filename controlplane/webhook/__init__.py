"""The validating webhook: refuses objects of the mesh that cannot be used, before they are stored."""
