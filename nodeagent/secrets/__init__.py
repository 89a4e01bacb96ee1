"""Certificates of the node's workloads: requested from the CA, renewed in time, served over SDS.

Private keys are made here, live in this process's memory and leave it over one Unix socket only.
"""
