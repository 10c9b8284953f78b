"""The demonstration: a good, a bad and a silent release on a simulated fleet, on real servers, judged by what was stored.

``python -m orchestrator.demo`` starts everything on this machine, drives it through the same API and protocols as anybody else, and
ends with a report whose every number is counted from the logs, the database and the fleet's own records.
"""
