"""Which pods of this node belong to the mesh (``enrolment``), and where their network namespaces are (``namespaces``)."""
