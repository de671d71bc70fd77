"""Tasks over processes: what fails or is killed costs no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dirprune.command.workers import Workers

# These travel to workers by name, so they are functions of the standard library or of a module on
# the path of the worker; pytest's importlib mode gives this file none.
SCRIPT = """
    import os, signal, sys, time
    from dirprune.command.workers import Workers

    def work(what):
        if what == "raise":
            raise ValueError("no good")
        if what == "die":
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "wait":
            print("waiting", os.getpid(), flush=True)
            time.sleep(60)
        return what.upper()

    if __name__ == "__main__":
        tasks = {str(i): what for i, what in enumerate(sys.argv[2:])}
        with Workers(int(sys.argv[1])) as workers:
            for name, outcome in workers.run(work, tasks):
                print(name, type(outcome).__name__, outcome, flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def run(script: Path, *arguments: object) -> list[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_an_outcome(script: Path, processes: int) -> None:
    assert run(script, processes, "a", "raise", "b") == [
        "0 str A", "1 ValueError no good", "2 str B",
    ]  # fmt: skip


def test_a_killed_worker_costs_its_own_task_alone(script: Path) -> None:
    lines = run(script, 2, "a", "die", "b", "c", "die", "d")
    assert [line.split()[1] for line in lines] == [
        "str", "WorkerDiedError", "str", "str", "WorkerDiedError", "str",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_no_worker_outlives_its_parent(script: Path, number: signal.Signals) -> None:
    command = [sys.executable, str(script), "2", "wait", "wait"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    process.send_signal(number)
    process.wait(timeout=20)
    limit = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.communicate()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie of an init that does not reap is no running process.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_workers_start_when_needed_and_end_with_the_block() -> None:
    with Workers(2) as workers:
        assert list(workers.run(str.upper, {})) == []
        assert dict(workers.run(str.upper, {"a": "b"})) == {"a": "B"}
        assert dict(workers.run(str.lower, {"a": "B"})) == {"a": "b"}
        assert len(multiprocessing.active_children()) == 1  # it serves twice
    assert multiprocessing.active_children() == []
