"""A metric of the user's that fails on one rank of two."""

from __future__ import annotations

import torch

from distributed.ranks import run_ranks
from phaseline.data.batch import Batch
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.objectives.causal_lm import CausalLM
from phaseline.training.phases.held_out import HeldOutTotals
from unit.training.phases.phase_runtimes import CountedUnits

VOCABULARY = 5


def validate(failing_rank: int) -> list[object]:
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=60), collective_timeout_s=60)
    metric = CountedUnits("sums" if world.dp_rank == failing_rank else "")
    totals = HeldOutTotals(
        CausalLM(), torch.ones(VOCABULARY), [], ["a"], torch.device("cpu"), (metric,)
    )
    model = torch.nn.Embedding(VOCABULARY, VOCABULARY)
    ids = torch.arange(VOCABULARY).view(1, -1)
    with torch.no_grad():
        for _ in range(2):
            totals.look(model, Batch(ids, ids, 1))
    try:
        found: object = totals.metrics("p", world)["p/units"]
    except Exception as error:  # noqa: BLE001 - what it is is the test's
        found = type(error).__name__
    world.close()
    return [found, totals.metric_has_failed]


def test_every_rank_learns_at_the_same_place_that_one_failed() -> None:
    assert run_ranks(validate, 2, -1) == [[20.0, False], [20.0, False]]
    assert run_ranks(validate, 2, 1) == [["LostRankError", True], ["ZeroDivisionError", True]]
