"""Workload certificates: requested from the CA, renewed in time, handed to SDS servers.

Used by the node agent for the pods of its node, and by a waypoint for itself. Private keys are made here, live in this
process's memory and leave it over one Unix socket only.
"""
