"""The data plane as Python sees it: one handle with a dozen short calls, and a batch of events.

The handle itself is compiled (``_native``, documented in ``_native.pyi``); ``events`` joins it to asyncio. ``bpf`` has
what the node agent needs, without the tunnel.
"""

from meshengine._native import (
    ConfigRejected,
    Engine,
    EngineBusy,
    EngineClosed,
    EngineError,
    KernelUnsupported,
    RejectedResource,
)

__all__ = [
    "ConfigRejected",
    "Engine",
    "EngineBusy",
    "EngineClosed",
    "EngineError",
    "KernelUnsupported",
    "RejectedResource",
]
