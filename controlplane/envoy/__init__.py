"""From routing records to Envoy's configuration (xDS v3). Knows no API of users."""
