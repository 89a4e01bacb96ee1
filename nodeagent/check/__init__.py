"""``culvert check``: whether a node can be of a mesh, and how its pods will be captured; changes nothing.

``features`` tries the kernel, ``backends`` says which backend each concern gets, ``host`` and ``conflicts`` look
around.
"""
