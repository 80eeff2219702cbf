"""Hugging Face data sets: in processes of their own, because the library reads its settings once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from phaseline.data.sources.files import files
from phaseline.data.sources.protocol import Document, Pair
from phaseline.data.sources.saved_dataset import saved_dataset
from phaseline.errors import DataError, ExitCode, PhaselineError
from unit.data.sources.made_files import jsonl, save_dataset

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"text": f"text {idx}"} for idx in range(5)]


def _run(tmp_path: Path, code: str) -> Any:
    """What the code puts into `answer`, without a network."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    head = "import json, sys\nfrom phaseline.data.sources import build_source\n"
    answer = subprocess.run(
        [sys.executable, "-c", f"{head}{code}\nprint(json.dumps(answer))"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_hub_dataset_reads_a_folder_without_a_network(tmp_path: Path) -> None:
    for split, rows in (("train", ROWS), ("test", ROWS[:2])):
        (tmp_path / "local" / "data").mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / "data" / f"{split}.jsonl").write_bytes(jsonl(rows))
    answer = _run(
        tmp_path,
        """
def build(**arguments):
    return build_source("hub_dataset", {"name": "./local", **arguments})

answer = {}
for split in ("train", "test", "train[:3]"):
    source = build(split=split)
    samples = [(sample.id, sample.text) for sample in source.samples()]
    answer[split] = (samples, source.fingerprint(), source.fingerprint())
answer["torch"] = "torch" in sys.modules
from phaseline.errors import DataError
for wrong in ({}, {"split": "tset"}, {"split": "train", "subset": "no"}):
    try:
        build(**wrong).check()
    except DataError as error:
        answer[json.dumps(wrong)] = str(error)
""",
    )
    expected = [[f"./local:{idx + 1}", row["text"]] for idx, row in enumerate(ROWS)]
    assert [answer[split][0] for split in ("train", "test", "train[:3]")] == [
        expected,
        expected[:2],
        expected[:3],
    ]
    fingerprints = [answer[split][1:] for split in ("train", "test", "train[:3]")]
    assert all(one == other for one, other in fingerprints)
    assert len({one for one, _ in fingerprints}) == 3
    assert answer["torch"] is False
    assert "has the splits train, test. Name one" in answer["{}"]
    assert 'Unknown split "tset"' in answer['{"split": "tset"}']
    assert "'no' not found" in answer['{"split": "train", "subset": "no"}']


def test_hub_dataset_says_what_to_do_when_there_is_no_network(tmp_path: Path) -> None:
    answer = _run(
        tmp_path,
        """
from phaseline.errors import DataError
pinned = {"revision": "0" * 40, "columns": {"text": "body"}}
source = build_source("hub_dataset", {"name": "nobody/nothing", **pinned})
answer = [source.shape, source.fingerprint() == source.fingerprint(), "datasets" in sys.modules]
try:
    source.check()
except DataError as error:
    answer.append(str(error))
""",
    )
    assert answer[:3] == ["text", True, False]
    assert answer[3].startswith("hub_dataset nobody/nothing cannot be loaded: Couldn't reach")
    assert "run `phaseline prepare` once on one that has" in answer[3]


def test_saved_dataset_reads_what_the_library_saved(tmp_path: Path) -> None:
    answer = _run(
        tmp_path,
        """
import datasets
rows = datasets.Dataset.from_dict({"q": list("abcde"), "a": list("vwxyz")})
rows.save_to_disk("one", num_shards=2)
datasets.DatasetDict(train=rows, test=rows.select([3, 1])).save_to_disk("several")
answer = None
""",
    )
    assert answer is None
    columns = {"prompt": "q", "completion": "a"}
    source = saved_dataset(str(tmp_path / "one"), columns=columns)
    assert len(list(source.samples())) == 5
    file = tmp_path / "several" / "test" / "data-00000-of-00001.arrow"
    source = saved_dataset(str(tmp_path / "several"), "test", columns=columns)
    assert list(source.samples()) == [Pair(f"{file}:1", "d", "y"), Pair(f"{file}:2", "b", "w")]
    with pytest.raises(DataError, match="needs a `split`; there are test, train"):
        saved_dataset(str(tmp_path / "several"))
    with pytest.raises(DataError, match="has no split 'tset'; there are test, train"):
        saved_dataset(str(tmp_path / "several"), "tset")
    with pytest.raises(DataError, match=r"a single data set\. Remove `split`"):
        saved_dataset(str(tmp_path / "one"), "train")


def test_saved_dataset_is_refused_when_the_folder_is_none_or_lacks_a_file(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "saved", ROWS)
    assert [s.text for s in saved_dataset(folder).samples() if isinstance(s, Document)] == [
        row["text"] for row in ROWS
    ]
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"lacks .*data-00000-of-00001\.arrow. Save it again"):
        saved_dataset(folder)
    with pytest.raises(DataError, match=r"no saved data set\. It must be a folder"):
        saved_dataset(str(tmp_path / "saved" / "nothing"))


def test_reading_files_imports_neither_datasets_nor_torch(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    answer = _run(
        tmp_path,
        """
source = build_source("files", {"paths": ["a.jsonl"]})
count = sum(1 for _ in source.samples())
answer = [count, [name for name in ("datasets", "torch", "pyarrow", "PIL") if name in sys.modules]]
""",
    )
    assert answer == [5, []]
    assert files([str(tmp_path / "a.jsonl")]).shape == "text"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json cannot be read.*Save it again"),
        ("[]", "state.json holds list where an object was written.*Save it again"),
        ("[" * 100_000, "nested too deep.*Save it again"),
        ('{"_data_files": 3}', "holds no rows that can be read in order"),
        ('{"_data_files": [3]}', "holds no rows that can be read in order"),
        ('{"_data_files": [{"filename": "../../other.arrow"}]}', "holds no rows that can be read"),
    ],
)
def test_saved_dataset_whose_description_is_damaged_is_refused_in_a_sentence(
    tmp_path: Path, state: str, message: str
) -> None:
    save_dataset(tmp_path / "saved", ROWS)
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(PhaselineError, match=message) as told:
        saved_dataset(str(tmp_path / "saved"))
    assert told.value.exit_code is ExitCode.USAGE
