"""What the mesh concludes from objects: enrolment, canonical names. Pure, and the only place for each conclusion.

Used by the node agent, the control plane and ``culvert analyze``, so that these cannot disagree.
"""
