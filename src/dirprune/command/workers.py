"""Independent tasks over processes, where one that fails or is killed costs no other.

A ``ProcessPoolExecutor`` whose worker is killed gives up all its tasks and does not tell whose
worker it was. So every worker is a pool of its own: what breaks with it is its own task.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import connection
from types import TracebackType


class WorkerDiedError(RuntimeError):
    """The process of a task has ended without a word: killed, or out of memory."""


class Workers:
    """So many processes, started when there is work for them; ``with`` ends them.

    Args:
        processes: 1 runs everything in this process, one task after the other.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._busy:
            worker.stop()
        for worker in (*self._idle, *self._busy):
            worker.pool.shutdown()

    def run[T, R](
        self, work: Callable[[T], R], tasks: Mapping[str, T]
    ) -> Iterator[tuple[str, R | Exception]]:
        """Run ``work`` on every task; yield its name with the result, or the error, as they finish.

        Args:
            work: a function of a module (it travels to other processes by name).
            tasks: name -> what ``work`` is called on; both it and the result are pickled.
        """
        if self.processes == 1:
            for name, task in tasks.items():
                try:
                    outcome: R | Exception = work(task)
                except Exception as failure:
                    outcome = failure
                yield name, outcome
            return
        waiting = deque(tasks.items())
        running: dict[Future[R], tuple[str, _Worker]] = {}
        while waiting or running:
            while waiting and len(running) < self.processes:
                name, task = waiting.popleft()
                worker = self._idle.pop() if self._idle else _Worker()
                self._busy.add(worker)
                running[worker.pool.submit(work, task)] = name, worker
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, worker = running.pop(future)
                self._busy.remove(worker)
                error = future.exception()
                if isinstance(error, BrokenProcessPool | KeyboardInterrupt):
                    worker.pool.shutdown()  # a step of SVI answers SIGTERM by KeyboardInterrupt
                    yield name, WorkerDiedError("its process was killed, or ran out of memory")
                    continue
                self._idle.append(worker)
                yield name, error if isinstance(error, Exception) else future.result()


class _Worker:
    """A pool of one process, with its id."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
        with _interrupts_blocked():  # the process starts here, and inherits that
            self._pid = self.pool.submit(os.getpid)

    def stop(self) -> None:
        """Ask the process to stop, once it has begun."""
        with suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(self._pid.result(), signal.SIGTERM)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from processes started within: a terminal sends it to all, the parent answers."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """What a worker does first."""
    from tqdm import tqdm

    # tqdm's own lock is a semaphore of the system, which a killed worker would leave behind.
    tqdm.set_lock(threading.RLock())
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker

    def watch() -> None:
        """Leave no process behind where the parent is killed: its task would go on unseen."""
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
