"""What runs for a Gateway: the leader makes a waypoint's Deployment and what belongs to it, and writes its status.

``objects``, ``overlays`` and ``status`` compute, and are pure; ``controller`` applies.
"""
