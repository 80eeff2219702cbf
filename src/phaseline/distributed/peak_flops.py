"""What a device can compute at most, for the share of it that training uses.

Figures are the vendors' own, in TFLOP/s and without sparsity. A device or a precision that
no data sheet gives a figure for is not in the table: no number is better than a made-up one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Peak:
    """One kind of device.

    Attributes:
        names: All of these words stand in the device's name, as torch gives it.
        bf16: Products of bf16 numbers.
        tf32: Products of fp32 numbers that are rounded to TF32 first.
        fp32: Products of fp32 numbers.
        source: The data sheet.
    """

    names: tuple[str, ...]
    bf16: float
    tf32: float | None = None
    fp32: float | None = None
    source: str

    def of(self, precision: str) -> float | None:
        """FLOP/s in a precision: bf16, tf32 or fp32."""
        tflops: float | None = getattr(self, precision)
        return None if tflops is None else tflops * _TERA


_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_H100, _H200, _L40S = f"{_NVIDIA}/h100/", f"{_NVIDIA}/h200/", f"{_NVIDIA}/l40s/"

# More words first: the first entry whose words all occur is taken. NVIDIA prints figures
# with sparsity for Hopper and later; half of them is what dense products reach.
PEAKS = (
    Peak(names=("H200", "NVL"), bf16=835.5, source=_H200),
    Peak(names=("H200",), bf16=989.5, tf32=494.5, fp32=67.0, source=_H200),
    Peak(names=("H100", "NVL"), bf16=835.5, tf32=417.5, fp32=60.0, source=_H100),
    Peak(names=("H100", "PCIe"), bf16=756.0, tf32=378.0, fp32=51.0, source=_H100),
    Peak(names=("H100", "HBM3"), bf16=989.5, tf32=494.5, fp32=67.0, source=_H100),
    Peak(names=("GB200",), bf16=2500.0, source=f"{_NVIDIA}/gb200-nvl72/"),
    Peak(names=("B200",), bf16=2250.0, source=f"{_NVIDIA}/hgx/"),
    Peak(names=("A100",), bf16=312.0, tf32=156.0, fp32=19.5, source=f"{_NVIDIA}/a100/"),
    Peak(names=("L40S",), bf16=362.0, tf32=183.0, fp32=91.6, source=_L40S),
    Peak(names=("L4",), bf16=121.0, tf32=60.0, fp32=30.3, source=f"{_NVIDIA}/l4/"),
    Peak(names=("A40",), bf16=149.7, tf32=74.8, fp32=37.4, source=f"{_NVIDIA}/a40/"),
    Peak(names=("A30",), bf16=165.0, tf32=82.0, fp32=10.3, source=f"{_NVIDIA}/products/a30-gpu/"),
    Peak(
        names=("MI300X",),
        bf16=1307.4,
        fp32=163.4,
        source="https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
    ),
)


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s of a device at most; None if no figure is known for it.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it, "NVIDIA A100-SXM4-80GB".
        precision: bf16, tf32 or fp32.
    """
    words = device_name.replace("-", " ").split()
    for peak in PEAKS:
        if all(name in words for name in peak.names):
            return peak.of(precision)
    return None


def peak_flops_of(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the device at hand at most; None on a CPU, whose peak no data sheet gives.

    Args:
        device: The world's device.
        precision: The engine's, bf16 or fp32; fp32 is TF32 where torch was told so.
    """
    if device.type != "cuda":
        return None
    rounds = torch.get_float32_matmul_precision() != "highest"
    kind = "tf32" if precision == "fp32" and rounds else precision
    return peak_flops(torch.cuda.get_device_name(device), kind)
