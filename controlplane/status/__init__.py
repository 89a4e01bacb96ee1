"""What the mesh made of users' policies, in the status of the objects: which words (``conditions``), and when."""
