"""What every section of a session file is built on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: frozen, strict about keys, no silent conversion of kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
