"""Log-probabilities of a reference: what is read is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from phaseline.data.block_hashes import hashes_file
from phaseline.data.encoded_chunk import Split
from phaseline.errors import DataError, ExitCode
from phaseline.training.phases.reference_files import ReferenceFiles

TABLES: dict[Split, NDArray[np.float32]] = {
    "train": np.arange(12, dtype=np.float32).reshape(6, 2),
    "held_out": np.arange(4, dtype=np.float32).reshape(2, 2),
}


@pytest.fixture
def files(tmp_path: Path) -> ReferenceFiles:
    made = ReferenceFiles(
        folder=tmp_path / "reference",
        fingerprints={"train": "t", "held_out": "h"},
        num_pairs={"train": (4, 2), "held_out": (1, 1)},
        fence=lambda: None,
    )
    made.publish(TABLES)
    return made


def require_equal(files: ReferenceFiles) -> None:
    found = files.read()
    assert found is not None
    assert all(np.array_equal(found[side], table) for side, table in TABLES.items())


def test_numbers_are_read_as_they_were_written(files: ReferenceFiles) -> None:
    require_equal(files)
    files.publish(TABLES)
    require_equal(files)


@pytest.mark.parametrize("place", [-1, -8, 70])
def test_flipped_bit_is_refused_with_what_to_do(files: ReferenceFiles, place: int) -> None:
    path = files.paths("train")[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} does not hold what was written.*remove") as told:
        files.read()
    assert told.value.exit_code is ExitCode.USAGE


def test_numbers_without_their_hashes_are_not_believed(files: ReferenceFiles) -> None:
    for path in files.folder.glob("*.npy"):
        hashes_file(path).unlink()
    with pytest.raises(DataError, match="does not hold what was written"):
        files.read()


def test_files_of_other_weights_go_with_their_hashes(files: ReferenceFiles) -> None:
    (files.folder / "train-0-other.npy").write_bytes(b"x")
    hashes_file(files.folder / "train-0-other.npy").write_bytes(b"y")
    files.publish(TABLES)
    assert len(list(files.folder.iterdir())) == 8
