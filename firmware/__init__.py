"""Firmware: MCUboot images, trust in their signers, and devices to try them on.

The package knows nothing of the orchestrator and imports nothing of it. ``image``, ``trust`` and ``device_sim`` do no
I/O; ``report`` reads files for the command line; ``sign`` makes images for the demo and the tests and is never needed
by a server.
"""
