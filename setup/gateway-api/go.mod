// Pins the release of the Gateway API whose definitions the chart has (setup/gateway_api.py).
module culvert/gateway-api

go 1.24

require sigs.k8s.io/gateway-api v1.6.3
