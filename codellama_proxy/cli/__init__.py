"""Key administration and the ledger at the command line, on the database file itself."""
