"""Everything that is kept: keys, the ledger, the cache, in one SQLite file."""
