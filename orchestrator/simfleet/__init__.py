"""A simulated fleet: thousands of devices with real slot pairs that speak hawkBit DDI over HTTP to a gateway.

``python -m orchestrator.simfleet`` runs it as a process of its own. The fleet trusts nothing it is told: it checks sizes and
digests, keeps every report until the gateway has taken it, and writes down what it was shown and what was acknowledged
(``truth``), so that somebody else can compare that with what the system stored.
"""

from orchestrator.simfleet.fleet import Fleet
from orchestrator.simfleet.model import DeviceSpec, FleetFile, HardwareSpec, Pace, load_fleet, load_traits

__all__ = ["DeviceSpec", "Fleet", "FleetFile", "HardwareSpec", "Pace", "load_fleet", "load_traits"]
