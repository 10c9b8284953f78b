"""Simulated devices: flash slots under MCUboot's swap rules, and what a device makes of a release. No I/O."""
