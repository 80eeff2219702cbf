"""Batches of samples with a label: any layout gives the same samples, in the same order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import Config
from phaseline.data.batch import AnyBatch, LabelledBatch
from phaseline.data.loader import DirectLoader, WorkerLoader, build_loader
from phaseline.data.phase_data import PhaseData, open_phase_data
from phaseline.data.preparation import prepare
from phaseline.data.rows import NO_LOSS
from phaseline.errors import DataError
from unit.data.labelled_sources import Images, Reviews

MakeConfig = Callable[..., Config]
SOURCES = "unit.data.labelled_sources"


def _config(make_config: MakeConfig, *names: str, length: int | None = None, **data: Any) -> Config:
    sources = [
        {"source": f"{SOURCES}:{name}", "arguments": {"name": f"{name}{idx}"}}
        for idx, name in enumerate(names)
    ]
    given = {"sequence_length": length, **data}
    return make_config(*sources, objective="classification", data=given)


def _open(config: Config, layout: BatchLayout) -> PhaseData:
    prepare(config, lambda _: None)
    size = {"global_size": layout.global_size, "micro_size": layout.micro_size}
    phase = config.phases[0].model_copy(
        update={"batch": config.phases[0].batch.model_copy(update=size)}
    )
    return open_phase_data(config.model_copy(update={"phases": (phase,)}), 0, layout)


def _samples(batch: AnyBatch) -> list[tuple[Any, int, int]]:
    """Inputs, label and source of the real rows, without padding."""
    assert isinstance(batch, LabelledBatch)
    found = []
    for row in range(batch.rows):
        inputs = batch.inputs[row]
        if batch.lengths is not None:
            inputs = inputs[: batch.lengths[row]]
        source = 0 if batch.source_ids is None else int(batch.source_ids[row])
        found.append((inputs.flatten().tolist(), int(batch.labels[row]), source))
    return found


def _stream(data: PhaseData, steps: range) -> list[tuple[Any, int, int]]:
    layout = data.layout
    found = []
    for step in steps:
        for micro_step in range(layout.accumulation_steps):
            for rank in range(layout.dp_world_size):
                batch = data.micro_batch(step, micro_step, rank)
                assert isinstance(batch, LabelledBatch)
                assert len(batch.inputs) == len(batch.labels) == layout.micro_size
                assert (batch.labels[batch.rows :] == NO_LOSS).all()
                found += _samples(batch)
    return found


@pytest.mark.parametrize(
    ("names", "length"),
    [(["Images"], None), (["Features", "Features"], None), (["Reviews", "Reviews"], 16)],
    ids=["images", "mixed features", "mixed text"],
)
def test_samples_are_the_same_in_every_layout_and_with_workers(
    make_config: MakeConfig, names: list[str], length: int | None
) -> None:
    config = _config(make_config, *names, length=length, num_workers=2, prefetch=2)
    whole = _open(config, BatchLayout.derive(12, 12, 1))
    expected = _stream(whole, range(9))
    assert whole.unit_counts(3, "samples").sum() == 12
    assert {source for *_, source in expected} == set(range(len(names)))
    for micro_size, num_ranks in ((1, 1), (4, 3), (3, 2), (13, 1)):
        layout = BatchLayout(12, micro_size, num_ranks, -(-12 // (micro_size * num_ranks)), 0)
        assert _stream(_open(config, layout), range(9)) == expected
    loader = build_loader(config.phases[0].data, whole, seed=0, phase_idx=0, dp_rank=0)
    assert isinstance(loader, WorkerLoader)
    try:
        for step in (*range(5), 2, 8):
            read, direct = loader.micro_batch(step, 0), DirectLoader(whole, 0).micro_batch(step, 0)
            assert _samples(read) == _samples(direct) == expected[12 * step : 12 * step + 12]
    finally:
        loader.close()


def test_every_sample_comes_once_per_epoch_with_its_own_label(make_config: MakeConfig) -> None:
    data = _open(_config(make_config, "Images"), BatchLayout.derive(1, 1, 1))
    num_rows = data.samples_per_epoch
    assert num_rows is not None
    labels = {
        tuple((one.inputs.ravel() / np.float32(255)).tolist()): one.label
        for one in Images("Images0").samples()
        if not isinstance(one.inputs, str)
    }
    seen = [(tuple(inputs), label) for inputs, label, _ in _stream(data, range(num_rows))]
    assert len(set(seen)) == num_rows
    assert all(labels[inputs] == label for inputs, label in seen)


def test_images_are_scaled_to_one_unless_they_shall_not_be(make_config: MakeConfig) -> None:
    layout = BatchLayout.derive(4, 4, 1)
    scaled = _open(_config(make_config, "Images"), layout).micro_batch(0, 0, 0)
    plain = _open(_config(make_config, "Images", scale_images=False), layout).micro_batch(0, 0, 0)
    assert isinstance(scaled, LabelledBatch)
    assert isinstance(plain, LabelledBatch)
    assert scaled.inputs.dtype == plain.inputs.dtype == torch.float32
    assert scaled.inputs.shape == (4, *Images.item_shape)
    assert torch.equal(scaled.inputs, plain.inputs / 255)
    assert 0.9 < scaled.inputs.max() <= 1


def test_texts_are_cut_and_padded_on_the_right(make_config: MakeConfig) -> None:
    data = _open(_config(make_config, "Reviews", length=16), BatchLayout(6, 4, 1, 2, 2))
    texts = {one.label: one for one in Reviews("Reviews0").samples()}
    assert len(texts) == 3
    tokenizer = data.tokenizer
    known = [f"{one.inputs}<eos>" for one in Reviews("Reviews0").samples()]
    for step in range(8):
        batch = data.micro_batch(step, 1, 0)
        assert isinstance(batch, LabelledBatch)
        assert batch.lengths is not None
        assert batch.rows == 2
        assert batch.inputs.shape[1] % 8 == 0
        assert batch.inputs.shape[1] <= 16
        assert batch.lengths.tolist()[2:] == [1, 1]
        for row, length in zip(batch.inputs, batch.lengths.tolist(), strict=True):
            assert (row[length:] == tokenizer.pad_id).all()
        for row, length in zip(batch.inputs[:2], batch.lengths.tolist(), strict=False):
            text = tokenizer.decode(row[:length].tolist(), special=True)
            assert any(one.startswith(text) for one in known)
            assert length == 16 or text in known


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("micro_size", [1, 4, 7])
def test_held_out_samples_come_once_each_whatever_the_ranks(
    make_config: MakeConfig, num_ranks: int, micro_size: int
) -> None:
    held_out = _open(_config(make_config, "Features"), BatchLayout.derive(8, 2, 1)).held_out
    found = []
    for idx in range(held_out.num_batches(num_ranks, micro_size)):
        for rank in range(num_ranks):
            batch = held_out.batch(idx, rank, num_ranks, micro_size)
            assert isinstance(batch, LabelledBatch)
            assert len(batch.inputs) == micro_size
            assert not batch.inputs[batch.rows :].any()
            found += _samples(batch)
    assert len(found) == held_out.num_sequences
    alone = [_samples(held_out.batch(idx, 0, 1, 1))[0] for idx in range(len(found))]
    assert found == alone


def test_tokens_are_counted_one_per_image_and_by_length_for_text(make_config: MakeConfig) -> None:
    images = _open(_config(make_config, "Images"), BatchLayout.derive(8, 2, 1))
    texts = _open(_config(make_config, "Reviews", length=16), BatchLayout.derive(8, 2, 1))
    assert (images.tokens_per_step, texts.tokens_per_step) == (8, 128)
    assert (images.num_classes, texts.num_classes) == (5, 3)
    assert images.form is not None
    assert texts.form is None


def test_preparation_tells_samples_and_classes(make_config: MakeConfig) -> None:
    said: list[str] = []
    [facts] = prepare(_config(make_config, "Images"), said.append)
    assert facts["train"]["tokens"] == facts["train"]["documents"] == facts["train"]["sequences"]
    assert facts["train"]["documents"] + facts["held_out"]["documents"] == 60
    assert (facts["classes"], facts["useful_frac"]) == (5, 1.0)
    assert said[-1].endswith("; each 2x3x4 uint8; 5 classes")
    prepare(_config(make_config, "Reviews", length=16), said.append)
    assert said[-1].endswith("; 3 classes; cut 39 at the end to fit the sequence")


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        (
            ["Images"],
            {"sequence_length": 16},
            r"sequence_length is 16, which has no effect: .*Images",
        ),
        (["Reviews"], {}, r"data\.sequence_length is missing: .*Reviews gives text"),
        (["Images", "Features"], {}, r"Images gives 2x3x4 uint8 and .*Features gives 7 float32"),
        (["Features"], {"scale_images": False}, r"scale_images is false, which has no effect"),
        (
            ["Images", "Reviews"],
            {},
            r"sequence_length is missing: .*Reviews gives text",
        ),
    ],
)
def test_sources_that_do_not_fit_their_phase_are_refused_in_words(
    make_config: MakeConfig, names: list[str], data: dict[str, Any], message: str
) -> None:
    config = _config(make_config, *names, **{"length": data.pop("sequence_length", None), **data})
    with pytest.raises(DataError, match=message):
        prepare(config, lambda _: None)


def test_sources_with_other_lists_of_classes_are_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        lines = [f"{idx},{idx % 2}" for idx in range(40)]
        Path(f"{name}.csv").write_text("\n".join(["x,y", *lines]))

    def sources(*lists: list[str] | None) -> list[dict[str, Any]]:
        return [
            {
                "source": "files",
                "arguments": {
                    "paths": [f"{name}.csv"],
                    "columns": {"features": ["x"], "label": "y"},
                    **({} if classes is None else {"classes": classes}),
                },
            }
            for name, classes in zip("ab", lists, strict=True)
        ]

    def phase(*lists: list[str] | None) -> Config:
        data = {"sequence_length": None}
        return make_config(*sources(*lists), objective="classification", data=data)

    with pytest.raises(DataError, match=r"files lists the classes 0, 1, and files has 1, 0\."):
        prepare(phase(["0", "1"], ["1", "0"]), lambda _: None)
    [facts, _] = prepare(phase(["0", "1"], None), lambda _: None)
    assert facts["classes"] == 2


def test_digits_are_what_scikit_learn_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    from phaseline.data.sources.digits import Digits

    known = load_digits()
    samples = list(Digits().samples())
    assert len(samples) == 1797
    assert [one.label for one in samples] == known.target.tolist()
    stacked = np.stack([one.inputs for one in samples if not isinstance(one.inputs, str)])
    assert stacked.dtype == np.float32
    assert np.array_equal(stacked[:, 0] * 16, known.images)
    monkeypatch.setattr("phaseline.data.sources.digits._CONTENT", "other")
    with pytest.raises(DataError, match="digits are not those that this source knows"):
        next(Digits().samples())
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"needs scikit-learn.*Install phaseline\[digits\]"):
        Digits()
