"""Keys of token issuers (JWKS) that are fetched from where RequestAuthentications say."""
