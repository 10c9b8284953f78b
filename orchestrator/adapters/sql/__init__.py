"""PostgreSQL: the event log, the ledger, the projections and every transaction that decides."""
