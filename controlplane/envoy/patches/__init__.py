"""EnvoyFilters: changes that users make to what the control plane configures waypoints with.

``reading`` turns an object into patches, ``attachment`` says which patches count where, and ``listeners``, ``chains``,
``routes``, ``clusters`` and ``additions`` apply them. Order and effect of patches are Istio's
(``pilot/pkg/networking/core/envoyfilter``); where they differ, the module says so.
"""
