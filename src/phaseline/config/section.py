"""What every section of a session file is built on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator

from phaseline.config.bounds import SMALLEST


class Section(BaseModel):
    """Base of every section: frozen, strict about keys, no silent conversion of kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _number_is_more_than_rounding(cls, value: object) -> object:
        if isinstance(value, float) and 0 < abs(value) < SMALLEST:
            raise ValueError(
                f"is {value!r}; other than 0 it must be at least {SMALLEST:g}, because devices "
                "compute in 32 bits"
            )
        return value
