"""What is read from Kubernetes, and how it is checked on the way in."""
