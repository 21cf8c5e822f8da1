"""The run's log."""

from snowboot.logger import Logger

AbstractLogger = Logger

__all__ = ["AbstractLogger", "Logger"]
