"""The node's agent: finds the pods of the mesh, captures their traffic, keeps their certificates.

It decides *what shall be so on this node* and makes it so. It carries no traffic: when it is away, everything that it
has set up goes on.
"""
