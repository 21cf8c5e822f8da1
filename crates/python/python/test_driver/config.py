"""The configuration of a run."""

from snowboot.driver_config import DriverConfig
from snowboot.driver_config import load as load_driver_configuration

__all__ = ["DriverConfig", "load_driver_configuration"]
