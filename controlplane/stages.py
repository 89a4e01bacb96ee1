"""In which order collections are computed. Lower numbers first; the one place where stages are put in relation.

=====================  ================================  =========================================================
stage                  collections                       why here
=====================  ================================  =========================================================
modes                  the mode of each namespace        policies read it
policies               policies, settings of proxies     a workload that names a policy must not arrive before it
waypoints              waypoints, gateways, what          attachments and routes read them
                       namespaces use
attachments            what uses which waypoint          services and workloads name it
unbound                policies of services that use     attachments say which; services and workloads name them
                       no waypoint
hosts                  whose a host is                   services and workloads read it
addresses              services and workloads
routes                 services, rules, what targets say  proxies' resources read them
chains                 filter chains of services         listeners consist of them
clusters               clusters and their endpoints      a route must not arrive before the clusters that it names
proxies                listeners and routes
conditions             conditions on objects             they report what all the others have made
=====================  ================================  =========================================================

From attachments on, what single events concern is computed before what is computed in bulk: a change of the whole
mesh computes every pod again.
"""

from typing import Final

from controlplane.graph.task import Stage

MODES: Final = Stage(single=0, bulk=10)
POLICIES: Final = Stage(single=20, bulk=30)
WAYPOINTS: Final = Stage(single=40, bulk=50)
ATTACHMENTS: Final = Stage(single=60, bulk=90)
UNBOUND: Final = Stage(single=65, bulk=95)
HOSTS: Final = Stage(single=70, bulk=100)
ADDRESSES: Final = Stage(single=80, bulk=110)
ROUTES: Final = Stage(single=82, bulk=112)
CHAINS: Final = Stage(single=83, bulk=113)
CLUSTERS: Final = Stage(single=84, bulk=114)
PROXIES: Final = Stage(single=86, bulk=116)
CONDITIONS: Final = Stage(single=120, bulk=130)
