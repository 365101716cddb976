"""`GET /`: what this server is; for browsers, a page about connecting to it."""
