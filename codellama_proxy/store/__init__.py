"""The database: keys, their audit, the ledger, the outbox and the last good configuration."""
