"""The mesh configuration: config map ``istio``, key ``mesh``. Source: istio/api, ``mesh/v1alpha1/config.proto``."""
