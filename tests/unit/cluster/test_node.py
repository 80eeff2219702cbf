from __future__ import annotations

import pytest

from phaseline.cluster.node import NodePlace, require_gpus
from phaseline.errors import UsageError


def place(num_gpus: int | None) -> NodePlace:
    return NodePlace(idx=1, count=2, name="node2", peer="node1", num_gpus=num_gpus)


@pytest.mark.parametrize(
    ("given", "visible"), [(4, 0), (4, 4), (8, 8), (None, 4), (None, 0), (8, 4)]
)
def test_node_is_taken_when_every_rank_has_a_gpu(given: int | None, visible: int) -> None:
    require_gpus(place(given), 4, visible)


@pytest.mark.parametrize(("given", "visible"), [(2, 0), (2, 2), (4, 2), (None, 2)])
def test_node_is_refused_by_name_when_a_rank_has_no_gpu(given: int | None, visible: int) -> None:
    with pytest.raises(UsageError, match=r"node2 has 2 GPU\(s\) for this job, and 4 ranks"):
        require_gpus(place(given), 4, visible)


def test_place_is_read_from_the_task_and_not_from_the_job() -> None:
    variables = {
        "SLURM_NODEID": "1",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURMD_NODENAME": "node7",
        "SLURM_GPUS_ON_NODE": "3",
    }
    read = NodePlace.read("node3", "node7", variables)
    assert read == NodePlace(idx=1, count=2, name="node7", peer="node3", num_gpus=3)


def test_first_node_looks_towards_another_one() -> None:
    variables = {"SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURMD_NODENAME": "node3"}
    assert NodePlace.read("node3", "node7", variables).peer == "node7"
