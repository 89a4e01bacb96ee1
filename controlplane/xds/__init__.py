"""What is served over discovery streams, and what is seen on them."""
