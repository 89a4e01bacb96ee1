"""The webhooks: one refuses objects of the mesh that cannot be used, one makes gateways of pods that ask for it."""
