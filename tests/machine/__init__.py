"""A state machine that uses the ledger at random, and what must be true of it after every step."""
