"""Ctrl-C between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Has Ctrl-C been pressed?"""

    requested: bool = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Turn the first Ctrl-C (or SIGTERM) into a flag; a second one interrupts at once.

    A step that is broken off in the optimiser leaves half of the parameters moved. Outside the main
    thread signals do not arrive, and nothing is changed.
    """
    state = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if state.requested:
            raise KeyboardInterrupt
        state.requested = True

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in signals]
    try:
        yield state
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
