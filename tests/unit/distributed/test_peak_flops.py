from __future__ import annotations

import pytest
import torch

from phaseline.distributed.peak_flops import PEAKS, peak_flops, peak_flops_of


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156.0),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 80GB HBM3", "fp32", 67.0),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.5),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA B200", "bf16", 2250.0),
        ("NVIDIA GB200", "bf16", 2500.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.0),
    ],
)
def test_peak_is_the_data_sheets_when_the_device_is_known(
    name: str, precision: str, tflops: float
) -> None:
    assert peak_flops(name, precision) == tflops * 1e12


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA GeForce RTX 4090", "bf16"),
        ("NVIDIA H100", "bf16"),  # which of the three it is does not show
        ("NVIDIA L40", "bf16"),
        ("NVIDIA GH200 480GB", "bf16"),
        ("NVIDIA H200 NVL", "fp32"),
    ],
)
def test_peak_is_absent_when_no_data_sheet_is_known(name: str, precision: str) -> None:
    assert peak_flops(name, precision) is None


def test_peak_is_absent_on_a_cpu() -> None:
    assert peak_flops_of(torch.device("cpu"), "bf16") is None


def test_peak_of_fp32_is_that_of_tf32_when_torch_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A100-PCIE-40GB")
    device = torch.device("cuda", 0)
    assert peak_flops_of(device, "bf16") == 312e12
    assert peak_flops_of(device, "fp32") == 19.5e12
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak_flops_of(device, "fp32") == 156e12


def test_every_peak_names_its_source() -> None:
    assert all(peak.source.startswith("https://") for peak in PEAKS)
