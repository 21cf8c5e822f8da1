"""The script's `t`: assertions that fail as checks of the test."""

from __future__ import annotations

import unittest

from .errors import RequestedAssertionFailed


class AssertionTester(unittest.TestCase):
    """Has the assertions of a test case of Python's."""

    failureException = RequestedAssertionFailed
