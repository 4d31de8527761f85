"""What the tests share: a real PostgreSQL, a real server process, a ledger with hosts in it."""
