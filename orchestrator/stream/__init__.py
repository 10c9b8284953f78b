"""Kafka to PostgreSQL by Faust: supervision, membership and fetching are Faust's, correctness is the projection's."""
