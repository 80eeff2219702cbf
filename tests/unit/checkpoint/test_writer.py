from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phaseline.checkpoint.reader import index_name
from phaseline.checkpoint.writer import RankState, describe_model, merge_indexes
from phaseline.distributed.engines.base import StateFragment
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError
from unit.checkpoint.live_engines import Odd, build, train


def tensors_of(state: RankState) -> dict[str, torch.Tensor]:
    return state.weights | state.optimizer


def test_describe_model_names_shapes_and_what_is_tied() -> None:
    found = describe_model(Odd(seed=1))
    assert found["parameters"]["embed.weight"] == {
        "shape": [7, 5],
        "dtype": "float32",
        "trainable": True,
    }
    assert found["parameters"]["shift"]["shape"] == []
    assert not found["parameters"]["frozen"]["trainable"]
    assert found["tied"] == [["embed.weight", "head.weight"]]


def test_rank_state_holds_tied_weights_once_and_no_scratch(world: World) -> None:
    engine = build(world, 1)
    train(engine, range(1))
    state = RankState(engine, dp_rank=0, dp_world_size=1)
    assert "weight/embed.weight" in state.weights
    assert "weight/head.weight" not in state.weights
    assert {key for key in state.weights if key.startswith("buffer/")} == {
        "buffer/counter",
        "buffer/running",
    }


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_what_is_replicated_without_gap_or_overlap(
    world: World, world_size: int
) -> None:
    engine = build(world, 1)
    train(engine, range(1))
    states = [RankState(engine, dp_rank=r, dp_world_size=world_size) for r in range(world_size)]
    whole = RankState(engine, dp_rank=0, dp_world_size=1)
    for key, (_, numel) in whole.fragments.items():
        parts = [tensors_of(s)[key] for s in states if key in tensors_of(s)]
        places = [s.fragments[key] for s in states if key in s.fragments]
        assert torch.equal(torch.cat(parts), tensors_of(whole)[key])
        ends = [start + length for start, length in places]
        assert [start for start, _ in places] == [0, *ends[:-1]]
        assert ends[-1] == numel


def test_rank_state_keeps_a_fragment_whole_when_it_is_this_ranks_own(world: World) -> None:
    engine = build(world, 1)
    fragments = [
        replace(f, replicated=False, start=f.start + 100) for f in engine.state_fragments()
    ]

    class Parted:
        module = engine.module

        def state_fragments(self) -> list[StateFragment]:
            return fragments

    state = RankState(Parted(), dp_rank=1, dp_world_size=2)  # type: ignore[arg-type]  # only these two are used
    assert state.fragments["weight/mix.bias"] == (100, 5)


def write_indexes(folder: Path, steps: list[int]) -> None:
    for rank, step in enumerate(steps):
        index = {
            "fragments": {"weight/a": [10 - 5 * rank, 5], f"exp_avg/{rank}": [0, 3]},
            "scalars": {"a": {"step": [step, True]}},
        }
        (folder / index_name(rank)).write_text(json.dumps(index))


def test_merged_index_says_in_order_which_rank_holds_what(tmp_path: Path) -> None:
    write_indexes(tmp_path, [7, 7, 7])
    assert json.loads(merge_indexes(tmp_path, 3)) == {
        "fragments": {
            "weight/a": [[0, 5, 2], [5, 5, 1], [10, 5, 0]],
            "exp_avg/0": [[0, 3, 0]],
            "exp_avg/1": [[0, 3, 1]],
            "exp_avg/2": [[0, 3, 2]],
        },
        "scalars": {"a": {"step": [7, True]}},
    }


def test_ranks_with_other_optimizer_numbers_make_no_checkpoint(tmp_path: Path) -> None:
    write_indexes(tmp_path, [7, 7, 8])
    with pytest.raises(CheckpointError, match="rank 2 has other optimizer numbers for a"):
        merge_indexes(tmp_path, 3)
