"""The pure core: no I/O, no clock, no randomness. Time, ids and salt come in as arguments."""
