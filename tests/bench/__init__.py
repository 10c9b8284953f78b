"""Measurements: what the system costs and how fast it is, on a real broker, database and Temporal server.

Run through ``ota bench NAME``. Nothing here is a test: no number is asserted, every number is printed with the settings it was
seen under.
"""
