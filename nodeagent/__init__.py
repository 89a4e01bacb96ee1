"""The node's agent: finds the pods of the mesh, captures their traffic, keeps their certificates.

It computes the desired state of this node and applies it. It carries no traffic: when it is away, everything that it
has set up goes on.
"""
