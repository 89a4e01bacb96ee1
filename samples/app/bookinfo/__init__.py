"""Bookinfo: a product page that asks three services. Names, ports, paths and JSON are those of Istio's sample."""
