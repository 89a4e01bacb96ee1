"""The node's layer 4 tunnel: a Python host around the engine.

The host decides *when*: it follows the node agent (ZDS), the control plane (delta ADS) and the certificate source
(SDS), and hands what they say to the engine. It never sees a connection or a byte of traffic.
"""
