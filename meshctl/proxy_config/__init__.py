"""What a layer 7 proxy has been given, from Envoy's admin pages: as tables in ``istioctl``'s columns, JSON and YAML."""
