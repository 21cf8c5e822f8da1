"""What a test script can run into."""

from snowboot.errors import MachineError, PollingConditionError, RequestedAssertionFailed, TestScriptError

__all__ = ["MachineError", "PollingConditionError", "RequestedAssertionFailed", "TestScriptError"]
