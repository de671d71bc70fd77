"""The removal cost's images are read once."""

from collections.abc import Iterator
from typing import Any

from dirprune.analysis.evidence import Passes, evidence

Case = Any  # of conftest.py


def test_images_are_read_once(case: Case) -> None:
    class Counted:
        reads = 0

        def __len__(self) -> int:
            return len(case.loader)

        def __iter__(self) -> Iterator[Any]:
            Counted.reads += 1
            return iter(case.loader)

    found = evidence("removal-cost", case.model, case.fit, Counted(), draws=3, images=10)
    assert Counted.reads == 1
    assert found.passes == Passes(60, 60)  # two restarts of three draws on ten images
