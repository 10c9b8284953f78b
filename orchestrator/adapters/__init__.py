"""Adapters: PostgreSQL, Kafka, Temporal, object storage behind the ports of ``orchestrator.app``."""
