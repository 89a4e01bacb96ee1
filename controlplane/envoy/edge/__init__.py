"""What gateways at the edge get."""
