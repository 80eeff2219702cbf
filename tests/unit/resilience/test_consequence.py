from __future__ import annotations

import pytest

from phaseline.errors import AnomalyError, CheckpointError, LostRankError, WorldError
from phaseline.resilience.consequence import is_consequence

# As gloo, the store and NCCL have been seen to say it.
LOST_PEER = [
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:4",
    "Connection reset by peer",
    "Broken pipe",
    "Gloo connectFullMesh failed with [...] SO_ERROR: Connection refused, remote=[127.0.0.1]:1",
    "[...]/unbound_buffer.cc:79] Timed out waiting 30000ms for recv operation to complete",
    "Application timeout caused pair closure",
    "recv failed. Connection was likely closed. Did the remote server shutdown or crash?",
    "NCCL communicator was aborted on rank 1. Original reason for failure was: watchdog timeout",
]


@pytest.mark.parametrize("text", LOST_PEER)
def test_error_is_a_consequence_when_it_speaks_of_a_lost_peer(text: str) -> None:
    assert is_consequence(RuntimeError(text))


@pytest.mark.parametrize(
    "error", [LostRankError("waited 30 s for all ranks"), ConnectionResetError("Connection reset")]
)
def test_error_is_a_consequence_when_it_is_of_that_kind(error: Exception) -> None:
    assert is_consequence(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x4 and 5x3)"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        MemoryError("Connection closed"),
        ValueError("Connection closed by peer"),
        AnomalyError("the gradient was not finite 5 times in a row"),
        CheckpointError("No checkpoint was published: main rank: Broken pipe"),
        WorldError("The ranks disagree on the phase"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_is_the_ranks_own_when_it_speaks_of_anything_else(error: BaseException) -> None:
    assert not is_consequence(error)
