"""A started world of one rank, and the compiler as the process had it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from phaseline.distributed.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """This process alone; the process group ends with the test."""
    # Not above: most unit tests need no torch.
    from phaseline.distributed.environment import RankEnvironment
    from phaseline.distributed.rendezvous import Rendezvous
    from phaseline.distributed.world import World

    environment = RankEnvironment.read({})
    world = World(environment, Rendezvous(environment, timeout_s=30), collective_timeout_s=30)
    yield world
    world.close()


@pytest.fixture
def settings_of_the_compiler() -> Iterator[None]:
    """Puts back what is set for the whole process, and keeps the compiler out of threads."""
    import torch._dynamo
    import torch._inductor.config

    kept: Any = torch._dynamo.config
    changed = {
        name: getattr(kept, name)
        for name in (
            "suppress_errors",
            "fail_on_recompile_limit_hit",
            "recompile_limit",
            "accumulated_recompile_limit",
        )
    }
    with kept.patch(changed), torch._inductor.config.patch({"compile_threads": 1}):
        yield
    torch._dynamo.reset()
    os.environ.pop("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", None)  # set anew where it is read
