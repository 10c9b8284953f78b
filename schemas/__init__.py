"""Wire contracts: what travels through Kafka and what the event log stores. No behaviour, no I/O."""
