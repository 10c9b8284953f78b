"""Use cases on ports. Nothing here knows SQL, Kafka, Temporal or HTTP."""
