"""The certificate authority: who is asking, what they may have, and the signing itself."""
