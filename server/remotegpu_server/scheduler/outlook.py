# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""For about how long one has to wait."""

_WEIGHT = 0.1  # of the newest observation: about the last twenty leases count
_RETRY_UNKNOWN = 1.0
_RETRY_LEAST, _RETRY_MOST = 0.05, 30.0


class HeldTimes:
    """How long leases last: an exponentially weighted mean of what was observed, in seconds."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def observe(self, held: float) -> None:
        """A lease's places came free after `held` seconds."""
        self.mean = held if self.mean is None else self.mean + _WEIGHT * (held - self.mean)

    def wait(self, asked: int, slots: int) -> float | None:
        """Seconds until `asked` places have come free where `slots` are in use, `None` if nobody can know.

        With all places in use and each held for the mean time m, `slots / m` places come free per second
        (Little's law), which gives m * asked / slots.
        """
        return self.mean * asked / slots if self.mean is not None and slots else None


def retry_after(estimated_wait: float | None) -> float:
    """Seconds after which asking again makes sense: the estimate, kept within 0.05 and 30."""
    if estimated_wait is None:
        return _RETRY_UNKNOWN
    return min(max(estimated_wait, _RETRY_LEAST), _RETRY_MOST)
