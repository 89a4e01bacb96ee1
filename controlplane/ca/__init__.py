"""The certificate authority: authentication and authorization of callers, and signing."""
