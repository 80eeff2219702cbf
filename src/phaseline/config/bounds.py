"""The numbers that a session file may hold, by what they count.

Every number of the schema is of one of these kinds, so that none overflows where it goes: into
64-bit integers of numpy and torch, 32-bit floats on the device, milliseconds of a C library.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from phaseline.units import MAX_DURATIONS

MAX_INTEGER = 2**63 - 1
"""The largest whole number anywhere in a session file, in the arguments of other code too."""

SMALLEST = 1e-30
"""A positive number below this is 0 in the 32 bits of a device, or its square is."""

MAX_STEPS, MAX_TOKENS = MAX_DURATIONS["steps"], MAX_DURATIONS["tokens"]
MAX_SEQUENCES = 10**9
"""Of a global batch: rows of a session, steps times this, stay below 2**63."""

MAX_PHASES = 256

MAX_SEQUENCE_LENGTH = 10**8

Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
MAX_ARGUMENT = 10**6
"""Of a number with a fraction among the arguments of an objective or an optimizer."""

MAX_ELEMENTS = 10**12
"""Of a buffer, in numbers that it holds."""

Steps = Annotated[int, Field(gt=0, le=MAX_STEPS)]
MicroBatch = Annotated[int, Field(gt=0, le=10**6)]
Sequences = Annotated[int, Field(gt=0, le=MAX_SEQUENCES)]
SequenceLength = Annotated[int, Field(ge=8, le=MAX_SEQUENCE_LENGTH)]
Characters = Annotated[int, Field(gt=0, le=10**12)]
GeneratedTokens = Annotated[int, Field(gt=0, le=10**6)]
Prompts = Annotated[int, Field(ge=0, le=10**6)]
Copies = Annotated[int, Field(gt=0, le=1000)]
Tries = Annotated[int, Field(gt=0, le=10**6)]
AdapterRank = Annotated[int, Field(gt=0, le=10**6)]
Nodes = Annotated[int, Field(gt=0, le=100_000)]
Processes = Annotated[int, Field(gt=0, le=1024)]
Gpus = Annotated[int, Field(ge=0, le=1024)]
Cpus = Annotated[int, Field(gt=0, le=100_000)]

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1000)]
"""A learning rate."""
Decay = Annotated[float, Field(ge=0, le=1000)]
Norm = Annotated[float, Field(gt=0, le=1e12)]
Scale = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A weight relative to others."""
Temperature = Annotated[float, Field(ge=0, le=1000)]
Tflops = Annotated[float, Field(gt=0, le=1e9)]
Seconds = Annotated[float, Field(gt=0, le=1_000_000)]
"""A time; eleven days, in milliseconds, is what 32 bits hold."""
