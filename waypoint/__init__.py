"""The layer 7 proxy's host: everything around an Envoy in a waypoint's pod that Envoy does not do itself.

It writes Envoy's bootstrap, starts and supervises it, relays its discovery stream to the control plane with the pod's
token, serves its certificate over SDS, answers probes and scrapes, and drains it. It knows no route and no policy: what
Envoy is told is between Envoy and the control plane.
"""
