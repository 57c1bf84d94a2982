"""When to try again."""

import random

FIRST = 0.05
LONGEST = 2.0


class Backoff:
    """Pauses in seconds that grow with each failure in a row."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self, asked: float | None = None) -> float:
        """At least as long as the server asks for; otherwise at random between half of the step and all of
        it, so that many clients do not come back as one."""
        step: float = min(FIRST * 2 ** min(self._failures, 10), LONGEST)
        self._failures += 1
        return max(step * random.uniform(0.5, 1.0), asked or 0.0)

    def reset(self) -> None:
        """Something worked."""
        self._failures = 0
