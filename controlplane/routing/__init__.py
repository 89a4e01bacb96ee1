"""From users' routing objects to records that no longer know which API they came from."""
