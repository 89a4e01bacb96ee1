"""Discovery streams (Envoy xDS v3, delta; secrets also as state of the world): servers, clients, and their sockets.

The client's half (``client``, ``credentials``, ``sds``) imports neither Kubernetes nor pydantic. Import the modules.
"""
