"""Which pods of this node belong to the mesh (``enrolment``), and where their namespaces are (``namespaces``)."""
