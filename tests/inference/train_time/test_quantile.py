"""The quantile: that of torch, and of more values than torch takes."""

import pytest
import torch

from dirprune.inference.train_time.quantile import quantile


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(1,), (7,), (10,), (6, 5, 3, 3), (1000,)])
def test_it_is_torchs(shape: tuple[int, ...], p: float) -> None:
    values = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(quantile(values, p), torch.quantile(values, p))


def test_ties_are_no_trouble() -> None:
    values = torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert float(quantile(values, 0.5)) == 1.0
    assert float(quantile(values, 5 / 6)) == pytest.approx(1.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_too(dtype: torch.dtype) -> None:
    found = quantile(torch.tensor([4.0, 1.0, 2.0, 3.0], dtype=dtype), 0.5)
    assert found.dtype == dtype
    assert float(found) == 2.5  # exact in either


@pytest.mark.slow
def test_more_than_torch_takes() -> None:
    # Of the whole numbers from 0 the p-quantile is p (n - 1).
    n = 2**24 + 3
    values = torch.arange(n, dtype=torch.float64).flip(0)
    assert float(quantile(values, 0.9)) == pytest.approx(0.9 * (n - 1), rel=1e-12)
