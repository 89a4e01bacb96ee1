"""Certificates of the node's workloads: asked of the authority, renewed in time, served over SDS.

Private keys are made here, live in this process's memory and leave it over one Unix socket only.
"""
