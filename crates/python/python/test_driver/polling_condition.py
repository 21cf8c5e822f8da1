"""Conditions that must hold while a part of a test runs."""

from snowboot.errors import PollingConditionError
from snowboot.polling import PollingCondition

__all__ = ["PollingCondition", "PollingConditionError"]
