"""Simulated campaigns under halt policies: how often they halt a healthy release, and how many devices a bad one reaches.

``python -m tests.bench.policies --write``; the table goes to ``deploy/docs/halting.md``.
"""
