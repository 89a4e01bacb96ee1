"""BPF programs, apart from the tunnel: loading them, and what they have counted. For the node agent."""

from meshengine._native import Capture, CaptureRules, Egress, GuardDrops, KernelUnsupported, load_guard, programs_at

__all__ = ["Capture", "CaptureRules", "Egress", "GuardDrops", "KernelUnsupported", "load_guard", "programs_at"]
