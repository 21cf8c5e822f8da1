"""The run: its machines and its script."""

from snowboot.assertions import AssertionTester
from snowboot.compatible import Driver
from snowboot.driver_config import DriverConfig
from snowboot.driver_config import load as load_driver_configuration

__all__ = ["AssertionTester", "Driver", "DriverConfig", "load_driver_configuration"]
