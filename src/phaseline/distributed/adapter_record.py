"""What a module says of the low-rank adapters in it: known to who adds them and who saves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phaseline.config.model_section import LoraSection

if TYPE_CHECKING:
    import torch

_ATTRIBUTE = "_phaseline_adapters"
_BASE = ".base_layer."
_MARKS = (".lora_A.", ".lora_B.")


@dataclass(frozen=True)
class AdapterRecord:
    """The adapters of a module.

    Attributes:
        section: Their rank, scale, targets and dropout.
        modules: Names of the layers that have one, each with whether its weight is
            [in, out] and not [out, in].
    """

    section: LoraSection
    modules: Mapping[str, bool]

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        return self.section.alpha / self.section.rank

    def to_json(self) -> dict[str, Any]:
        """For the model's description in a checkpoint."""
        return {"section": self.section.model_dump(mode="json"), "modules": dict(self.modules)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AdapterRecord:
        """Reads what `to_json` wrote."""
        values = {**content["section"], "targets": tuple(content["section"]["targets"])}
        return cls(LoraSection(**values), dict(content["modules"]))


def set_record(module: torch.nn.Module, record: AdapterRecord) -> None:
    """Leaves a record at a module."""
    setattr(module, _ATTRIBUTE, record)


def record_of(module: torch.nn.Module) -> AdapterRecord | None:
    """The record of a module's adapters; None if it has none."""
    found = getattr(module, _ATTRIBUTE, None)
    assert found is None or isinstance(found, AdapterRecord)
    return found


def section_of(record: AdapterRecord | None) -> LoraSection | None:
    """What a record says of rank, scale and targets."""
    return None if record is None else record.section


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter, by its name."""
    return any(mark in name for mark in _MARKS)


def plain_name(name: str) -> str:
    """The name that a parameter of the model itself has without adapters."""
    return name.replace(_BASE, ".")


def adapted_name(module: str, part: str) -> str:
    """The name of a part of an adapted layer: its own `weight` or `bias` beside the adapter."""
    return f"{module}{_BASE}{part}"


def adapter_names(module: str) -> tuple[str, str]:
    """The names of an adapter's two matrices: A [rank, in] and B [out, rank]."""
    return f"{module}.lora_A.default.weight", f"{module}.lora_B.default.weight"
