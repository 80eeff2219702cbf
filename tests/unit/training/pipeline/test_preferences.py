"""Whole sessions with a phase of preferences, in this process."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from phaseline.checkpoint.tensor_files import list_folder
from phaseline.config.batch_layout import BatchLayout
from phaseline.config.loading import load_config
from phaseline.data.batch import Batch
from phaseline.data.block_hashes import write_hashes
from phaseline.data.encoded_chunk import Split
from phaseline.data.phase_data import open_phase_data
from phaseline.errors import DataError, ExitCode, SessionError
from phaseline.training.phases.reference_files import ReferenceFiles
from unit.training.pipeline.preference_session import Place, write_answers

pytestmark = pytest.mark.extended("a dozen sessions of preferences")

MEMORY = "phases[1].objective_arguments={reference: memory}"
LORA = "phases[1].trainable={lora: {rank: 2}}"
KEPT = "phases[0].trainable={lora: {rank: 2}}"
REWARDS = "phases[1].objective=reward_model"
MEASURING = "measuring the reference on 46 pairs that are trained on and 14 that are held out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("preferences"))


@pytest.fixture
def place(made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The folder, in which every test runs sessions of its own."""
    made.enter(monkeypatch)
    return made


def require_same(place: Place, name: str, other: str) -> None:
    """Bit for bit: the weights of the last checkpoint, and everything that was recorded."""
    one, two = place.weights(name), place.weights(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert place.metrics(name) == place.metrics(other)


@pytest.mark.parametrize("more", [(), (LORA,), (LORA, KEPT)], ids=["all", "lora", "kept"])
def test_memory_and_precomputed_train_alike_and_begin_at_ln_2(
    place: Place, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{reference}-{len(more)}" for reference in ("stored", "memory")]
    place.run(names[0], *more)
    assert MEASURING in capsys.readouterr().err
    assert len(place.reference_files(names[0])) == 2
    place.run(names[1], *more, MEMORY)
    assert "measuring the reference" not in capsys.readouterr().err
    assert place.reference_files(names[1]) == []
    for kind in ("train", "validation"):
        stored, memory = (place.losses(name, kind) for name in names)
        assert memory == pytest.approx(stored, abs=1e-5)
        # Adapters that have learnt before are no part of the reference.
        is_ln_2 = stored[0] == pytest.approx(math.log(2), abs=1e-6)
        assert is_ln_2 is (KEPT not in more)
        assert stored[-1] < 0.67
    stored_weights, memory_weights = (place.weights(name) for name in names)
    for key, value in stored_weights.items():
        torch.testing.assert_close(memory_weights[key], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("precomputed", ()),
        ("frozen", (MEMORY,)),
        ("base", (LORA, MEMORY)),
        ("read-ahead", ("phases[1].data.num_workers=2", LORA)),
        ("rewards", (REWARDS,)),
    ],
)
def test_phase_of_preferences_has_the_same_bits_when_it_was_stopped_and_resumed(
    place: Place, name: str, overrides: tuple[str, ...]
) -> None:
    whole, parts = f"{name}-whole", f"{name}-parts"
    place.run(whole, *overrides)
    for stop in ("prefer", 3 + 1, 3 + 3):
        assert place.run(parts, *overrides, stop_at=stop).code is ExitCode.STOPPED
    assert place.run(parts, *overrides).code is ExitCode.FINISHED
    require_same(place, whole, parts)


def test_reference_is_measured_again_when_a_stop_cut_it_off_and_never_later(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.run("cut", stop_at="prefer")
    assert place.reference_files("cut") == []
    assert MEASURING in capsys.readouterr().err
    with pytest.raises(ValueError, match="as if it were killed"):
        # No checkpoint of the phase but that of its beginning holds any of it.
        place.run("cut", crash_at=3 + 1)
    assert MEASURING in capsys.readouterr().err
    files = {path: path.stat().st_mtime_ns for path in place.reference_files("cut")}
    assert len(files) == 2
    place.run("cut")
    assert "measuring the reference" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in place.reference_files("cut")} == files


def test_reference_of_a_phase_that_is_trained_is_not_measured_when_it_is_gone(
    place: Place,
) -> None:
    place.run("gone", stop_at=3 + 2)
    kept = {path: path.read_bytes() for path in place.reference_files("gone")}
    for path in kept:
        path.unlink()
    with pytest.raises(DataError, match="prefer goes on at step 2, but the log-probabilities of"):
        place.run("gone")
    for path, content in kept.items():
        path.write_bytes(content)
    assert place.run("gone").code is ExitCode.FINISHED


def test_reference_is_refused_when_its_file_is_damaged(place: Place) -> None:
    place.run("damaged", stop_at=3 + 2)
    path = place.reference_files("damaged")[1]
    np.save(path, np.load(path)[:-1])
    with pytest.raises(
        DataError, match=r"train-0-\w+\.npy does not hold what was written, and the"
    ):
        place.run("damaged")
    write_hashes(path)
    with pytest.raises(DataError, match=r"holds float32 \[45, 2\] where float32 \[46, 2\] was"):
        place.run("damaged")
    path.write_bytes(path.read_bytes()[:-8])
    write_hashes(path)
    with pytest.raises(DataError, match=r"train-0-\w+\.npy cannot be read: .* Restore it"):
        place.run("damaged")


def test_frozen_reference_is_refused_when_the_weights_are_others(place: Place) -> None:
    place.run("base", "export.phases=[learn]")
    folder = place.layout("base").exports_dir / "learn"
    outside = ("phases[1].inherit.weights=" + str(folder), MEMORY)
    place.run("outside", *outside, stop_at=3 + 2)
    file = next(iter(list_folder(folder).values())).file
    content = bytearray(file.read_bytes())
    file.write_bytes(bytes(content[:-1]) + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="The weights that prefer began with are its reference"):
        place.run("outside", *outside)
    file.write_bytes(content)
    assert place.run("outside", *outside).code is ExitCode.FINISHED


def test_metrics_are_the_same_for_any_micro_size(place: Place) -> None:
    place.run("two")
    for name, overrides in {
        "one": ("phases[1].batch.micro_size=1", "phases[1].evaluate.micro_size=5"),
        "four": ("phases[1].batch.micro_size=4", "phases[1].evaluate.micro_size=3"),
    }.items():
        place.run(name, *overrides)
        for kind in ("train", "validation"):
            for found, expected in zip(
                place.metrics(name, kind), place.metrics("two", kind), strict=True
            ):
                assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-5)


def test_pairs_of_a_mixture_find_their_own_reference(place: Place) -> None:
    write_answers(place.folder / "more.jsonl", 37)
    one, more = (
        f"{{source: files, arguments: {{paths: [{name}.jsonl], shape: preferences}}}}"
        for name in ("more", "answers")
    )
    data = f"phases[1].data={{sources: [{one}, {more}], held_out_frac: 0.2, sequence_length: 64}}"
    place.run("mixture", data, "phases[1].data.num_workers=2")
    assert len(place.reference_files("mixture")) == 4
    for kind in ("train", "validation"):
        first = place.metrics("mixture", kind)[0]["metrics"]
        # Another pair's numbers would give another loss than ln 2.
        losses = {key: value for key, value in first.items() if f"{kind}/loss" in key}
        assert len(losses) == 3
        assert list(losses.values()) == pytest.approx([math.log(2)] * 3, abs=1e-5)


def test_validation_counts_every_held_out_pair_once(place: Place) -> None:
    """By hand: the reference's numbers are the untrained policy's, one pair a row of the file."""
    place.run("counted")
    [held_out, _] = place.reference_files("counted")
    values = np.load(held_out)
    assert values.shape == (14, 2)
    first = place.metrics("counted", "validation")[0]["metrics"]
    assert first["prefer/validation/logp_chosen"] == pytest.approx(values[:, 0].mean(), rel=1e-5)
    assert first["prefer/validation/logp_rejected"] == pytest.approx(values[:, 1].mean(), rel=1e-5)


def test_no_reference_is_left_behind_by_another(tmp_path: Path) -> None:
    """Files of other pairs or weights are never taken, and go when new ones are published."""

    def refuse() -> None:
        raise SessionError("another holds the lease")

    def files(name: str, fence: Callable[[], None] = lambda: None) -> ReferenceFiles:
        return ReferenceFiles(
            folder=tmp_path / "reference",
            fingerprints={"train": name, "held_out": f"{name}-too"},
            num_pairs={"train": [2, 3], "held_out": [0, 1]},
            fence=fence,
        )

    tables: dict[Split, NDArray[np.float32]] = {
        "train": np.ones((5, 2), np.float32),
        "held_out": np.zeros((1, 2), np.float32),
    }
    files("old").publish(tables)
    assert files("new").read() is None
    files("new").publish({**tables, "train": 2 * tables["train"]})
    assert files("old").read() is None
    found = files("new").read()
    assert found is not None
    assert found["train"].tolist() == [[2.0, 2.0]] * 5
    assert found["held_out"].shape == (1, 2)
    assert len(list((tmp_path / "reference").glob("*.npy"))) == 4
    assert len(list((tmp_path / "reference").iterdir())) == 8  # with their hashes
    with pytest.raises(SessionError, match="another holds the lease"):
        files("late", refuse).publish(tables)
    assert files("new").read() is not None


@pytest.mark.parametrize("more", [(), ("phases[1].trainable={lora: {rank: 2}, train: [^score]}",)])
def test_reward_model_is_exported_as_transformers_loads_it(
    place: Place, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    name = f"rewards-{len(more)}"
    place.run(name, REWARDS, "export.phases=[prefer]", *more)
    assert "prefer starts from the last weights of learn, " in (seen := capsys.readouterr().err)
    assert "with a new reward head" in seen
    loaded = AutoModelForSequenceClassification.from_pretrained(
        place.layout(name).exports_dir / "prefer"
    ).eval()
    assert loaded.num_labels == 1
    config = load_config(place.folder / "session.yaml").config
    layouts = BatchLayout.derive(4, 2, 1)
    data = open_phase_data(config, 1, layouts)
    rewards: list[list[float]] = [[], []]
    for batch_idx in range(data.held_out.num_batches(1, 1)):
        batch = data.held_out.batch(batch_idx, 0, 1, 1)
        assert isinstance(batch, Batch)
        assert batch.document_ids is not None
        for document in range(int(batch.document_ids.max()) + 1):
            here = batch.document_ids[0] == document
            last = int(torch.nonzero(batch.targets[0, here] != -100).max())
            ids = batch.input_ids[0, here][None, : last + 1]
            with torch.no_grad():
                rewards[document % 2].append(float(loaded(input_ids=ids).logits))
    recorded = place.metrics(name, "validation")[-1]["metrics"]
    assert len(rewards[0]) == len(rewards[1]) == 14
    for key, values in zip(("reward_chosen", "reward_rejected"), rewards, strict=True):
        assert recorded[f"prefer/validation/{key}"] == pytest.approx(sum(values) / 14, abs=1e-5)
