"""Sample applications, with nothing but Python's standard library. None of them knows of the mesh."""
