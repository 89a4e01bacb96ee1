"""The kernel, typed: namespaces, links, cgroups, mounts. The only place that imports pyroute2 or calls setns.

Everything here blocks and none of it decides anything: callers in asyncio go through ``asyncio.to_thread``.
"""
