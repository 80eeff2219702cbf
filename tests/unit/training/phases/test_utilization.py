from __future__ import annotations

import pytest

from phaseline.training.phases.utilization import Utilization


def test_mfu_is_the_share_of_the_peak_that_the_model_uses() -> None:
    # 2,000 tokens a second of 3 GFLOP each on a device of 20 TFLOP/s.
    assert Utilization(flops_per_token=3e9, peak_flops=20e12).mfu(2000.0) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "utilization", [Utilization(), Utilization(flops_per_token=1.0), Utilization(peak_flops=1.0)]
)
def test_mfu_is_absent_when_a_figure_is_missing(utilization: Utilization) -> None:
    assert utilization.mfu(2000.0) is None
