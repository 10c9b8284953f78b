"""The device gateway."""
