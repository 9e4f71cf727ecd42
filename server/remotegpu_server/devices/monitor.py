# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Watches devices: measures them every second, and decides which are out of order. `judge` decides, `Monitor` acts.

A driver can hang, so sensors are read in a thread, one reading at a time. Nobody waits for that thread: the process can
end while a reading hangs in it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from .reading import Reading, faulty
from .sensors import Sensors

logger = logging.getLogger("remotegpu.devices")

# From one reading to the next. Seconds.
PERIOD = 1.0
# A reading that takes longer says that the driver does not answer. Seconds.
PATIENCE = 5.0
# So many readings without a fault, one after the other, and a failed device is healthy again.
CLEAN_READINGS = 3


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a device from its readings. `clean`: readings without a fault since it failed."""

    failed: bool = False
    clean: int = 0


class Verdict(Enum):
    """What a reading has changed."""

    NOTHING = "nothing"
    FAILED = "failed"
    HEALTHY = "healthy"


def judge(health: Health, reading: Reading) -> tuple[Health, Verdict]:
    """What is known with this reading, and what it changes. One fault is enough; health needs CLEAN_READINGS."""
    if reading.fault:
        return Health(failed=True), Verdict.NOTHING if health.failed else Verdict.FAILED
    if not health.failed:
        return health, Verdict.NOTHING
    if health.clean + 1 < CLEAN_READINGS:
        return Health(failed=True, clean=health.clean + 1), Verdict.NOTHING
    return Health(), Verdict.HEALTHY


class Listener(Protocol):
    """Who wants to know how the devices are. Called on the event loop."""

    def on_reading(self, readings: Mapping[int, Reading]) -> None:
        """The devices were measured, by index; before the other two are called for the same readings."""

    def on_failed(self, index: int, why: str) -> None:
        """The device is out of order."""

    def on_healthy(self, index: int) -> None:
        """It works again."""


class Monitor:
    """Reads sensors again and again, on the running event loop's clock, and tells a listener. Times in seconds."""

    def __init__(
        self, sensors: Sensors, listener: Listener, *, period: float = PERIOD, patience: float = PATIENCE
    ) -> None:
        self._sensors = sensors
        self._listener = listener
        self._period = period
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._health = dict.fromkeys(sensors.devices, Health())
        # What the listener must hear of a device; told again after each reading until the listener does not raise.
        self._untold: dict[int, Callable[[], None]] = {}
        # True: read; False: close and end.
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="device monitor", daemon=True)
        # The reading under way has taken too long.
        self._late = False
        self._complaint = ""
        self._begun = 0.0
        # Of the reading under way, or before the next one.
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Begins, with a reading at once. Only once."""
        self._thread.start()
        self._ask()

    def stop(self) -> None:
        """Tells nothing any more, and closes the sensors, which it does not wait for. May be called again."""
        if not self._stopped:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()
            self._orders.put(False)

    def _ask(self) -> None:
        self._begun = self._loop.time()
        self._late = False
        self._timer = self._loop.call_later(self._patience, self._overdue)
        self._orders.put(True)

    def _overdue(self) -> None:
        self._late = True
        logger.warning("the devices could not be measured within %g s", self._patience)
        if self._sensors.silence:
            self._take(dict.fromkeys(self._health, faulty(self._sensors.silence)))

    def _answered(self, answer: dict[int, Reading] | Exception) -> None:
        if self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(self._begun + self._period, self._loop.time()), self._ask)
        if self._late:
            return  # it was judged when it did not come, and tells of another time
        if isinstance(answer, Exception):
            why = f"it cannot be measured: {type(answer).__name__}: {answer}"
            if why != self._complaint:  # once, not every second
                logger.error("the devices cannot be measured", exc_info=answer)
            self._complaint = why
            answer = dict.fromkeys(self._health, faulty(why))
        else:
            self._complaint = ""
        self._take(answer)

    def _take(self, readings: Mapping[int, Reading]) -> None:
        """Raises what the listener raised, after all was told: trouble with one device must not hide another's."""
        failures: list[Exception] = []
        steps = [partial(self._listener.on_reading, readings)]
        steps += [partial(self._judge, index, reading) for index, reading in readings.items()]
        for step in steps:
            try:
                step()
            except Exception as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup("the listener failed", failures)

    def _judge(self, index: int, reading: Reading) -> None:
        self._health[index], verdict = judge(self._health[index], reading)
        if verdict is Verdict.FAILED:
            self._untold[index] = partial(self._listener.on_failed, index, reading.fault)
        elif verdict is Verdict.HEALTHY:
            self._untold[index] = partial(self._listener.on_healthy, index)
        if index in self._untold:
            self._untold[index]()
            del self._untold[index]

    def _work(self) -> None:
        """The thread."""
        while self._orders.get():
            answer: dict[int, Reading] | Exception
            try:
                answer = self._sensors.read()
            except Exception as error:  # told to the event loop, where it is a fault of the devices
                answer = error
            try:
                self._loop.call_soon_threadsafe(self._answered, answer)
            except RuntimeError:  # the loop was closed meanwhile: nobody listens
                break
        self._sensors.close()
