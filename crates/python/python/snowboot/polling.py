"""Conditions that must hold while a part of a test runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from .duration import DEFAULT_TIMEOUT, Duration, one_of, seconds
from .errors import PollingConditionError
from .retrying import retry_until

if TYPE_CHECKING:
    from .driver import Driver

DEFAULT_INTERVAL = 2.0
"""Seconds between two looks at a condition, at least."""


class PollingCondition:
    """A condition, what it is called, and when it was last looked at."""

    def __init__(
        self, condition: Callable[[], bool | None], driver: Driver, interval: float, description: str | None
    ) -> None:
        self.condition = condition
        self.seconds_interval = interval
        name = getattr(condition, "__name__", repr(condition))
        documented = (condition.__doc__ or "").strip()
        self.description = description or " ".join(documented.split()) or f"condition {name}"
        self._driver = driver
        self._looked: float | None = None
        self._entered = False

    def check(self, force: bool = False) -> bool:
        """Whether it holds. When that was asked a moment ago, or is being asked, it does."""
        if self._entered or not (force or self.overdue):
            return True
        self._entered = True
        try:
            with self._driver.logger.nested(f"checking polling condition: {self.description}"):
                result = self.condition()
                # What says nothing has not failed.
                holds = result is None or bool(result)
        except Exception as error:
            first, *_ = str(error).splitlines() or [type(error).__name__]
            self._driver.logger.info(f"the condition raised {type(error).__name__}: {first}")
            holds = False
        finally:
            self._entered = False
            self._looked = time.monotonic()
        self._driver.logger.info(self.status_message(holds))
        return holds

    def maybe_raise(self) -> None:
        """Raises PollingConditionError when it does not hold."""
        if not self.check():
            raise PollingConditionError(self.status_message(False))

    def status_message(self, status: bool) -> str:
        """In words."""
        return f"Polling condition {'succeeded' if status else 'failed'}: {self.description}"

    @property
    def overdue(self) -> bool:
        """Whether it is time for another look."""
        return self._looked is None or time.monotonic() >= self._looked + self.seconds_interval


class Poll:
    """A condition in the hands of a script: `with condition:` guards a part of it, `condition.wait()` waits for it."""

    def __init__(self, driver: Driver, condition: PollingCondition) -> None:
        self._driver = driver
        self.condition = condition

    def __enter__(self) -> None:
        self._driver.watch(self.condition)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.unwatch(self.condition)

    def wait(self, timeout_seconds: Duration | None = None, timeout: Duration | None = None) -> None:
        """Waits until the condition holds."""
        given = one_of(timeout_seconds, timeout, "timeout_seconds", "timeout")
        limit = seconds(DEFAULT_TIMEOUT if given is None else given)
        with self._driver.logger.nested(f"waiting for {self.condition.description}"):
            retry_until(
                lambda last: self.condition.check(force=True), limit, f"condition {self.condition.description!r}"
            )


def make(
    driver: Driver,
    function: Callable[[], bool | None] | None,
    seconds_interval: Duration | None,
    interval: Duration | None,
    description: str | None,
) -> Poll | Callable[[Callable[[], bool | None]], Poll]:
    """What the decorator `polling_condition` gives, with and without arguments."""
    given = one_of(seconds_interval, interval, "seconds_interval", "interval")
    pause = DEFAULT_INTERVAL if given is None else seconds(given)

    def poll(condition: Callable[[], bool | None]) -> Poll:
        if not callable(condition):
            raise TypeError(f"polling_condition() needs a function, got {condition!r}")
        return Poll(driver, PollingCondition(condition, driver, pause, description))

    return poll if function is None else poll(function)
