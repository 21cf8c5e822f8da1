"""The networks of a test."""

from snowboot.vlan import VLan

__all__ = ["VLan"]
