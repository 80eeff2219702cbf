from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.manifest import Manifest, hash_file, list_published, verify
from phaseline.checkpoint.retention import Best, Retention, Rotation, best_of, superfluous
from unit.checkpoint.made_checkpoints import make_checkpoint

LOSS = Best("loss", "min")


def manifest(step: int, *, loss: float | None = None, final: bool = False) -> Manifest:
    return Manifest(
        phase="only",
        run=1,
        parents=(),
        decisions=(),
        phase_step=step,
        global_step=step,
        clock=step,
        tokens=0,
        final=final,
        attempt=1,
        world_size=1,
        engine="plain",
        session="s",
        config_fingerprint="f",
        committed=(),
        data={},
        files={},
        created=0.0,
        validation={} if loss is None else {"loss": loss},
    )


def published(*manifests: Manifest) -> list[tuple[Path, Manifest]]:
    return [(Path(str(one.phase_step)), one) for one in manifests]


def gone(found: list[tuple[Path, Manifest]], retention: Retention) -> list[str]:
    return [path.name for path in superfluous(found, found[-1][0], retention)]


def test_newest_are_kept() -> None:
    found = published(*(manifest(step) for step in (10, 20, 30, 40)))
    assert gone(found, Retention(keep_last=2)) == ["10", "20"]


def test_first_of_each_span_is_kept_and_nothing_of_the_one_that_begins() -> None:
    found = published(*(manifest(step) for step in (30, 60, 90, 120, 150, 180, 210, 240, 270)))
    retention = Retention(keep_last=2, keep_every_steps=100)
    assert gone(found, retention) == ["30", "60", "90", "150", "180"]


def test_best_is_kept_and_of_equals_the_earlier() -> None:
    found = published(
        manifest(10, loss=3.0), manifest(20, loss=1.0), manifest(30, loss=1.0), manifest(40),
        manifest(50), manifest(60, loss=2.0),
    )  # fmt: skip
    assert best_of(found, LOSS) == Path("20")
    assert gone(found, Retention(keep_last=2, best=LOSS)) == ["10", "30", "40"]
    assert best_of(found, Best("loss", "max")) == Path("10")
    assert best_of(found, Best("bits_per_byte", "min")) is None


def test_last_of_the_phase_and_what_was_resumed_from_are_kept() -> None:
    found = published(manifest(10), manifest(20, final=True), *(manifest(s) for s in (30, 40, 50)))
    retention = Retention(keep_last=2, resumed_from=Path("10"))
    assert gone(found, retention) == ["30"]


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=12, unique=True).map(sorted),
    losses=st.lists(st.none() | st.floats(0, 9), min_size=12, max_size=12),
    keep_last=st.integers(2, 4),
    span=st.integers(0, 20),
    newest_idx=st.integers(0, 11),
)
def test_nothing_precious_is_ever_superfluous(
    steps: list[int],
    losses: list[float | None],
    keep_last: int,
    span: int,
    newest_idx: int,
) -> None:
    found = published(*(manifest(s, loss=x) for s, x in zip(steps, losses, strict=False)))
    newest = found[newest_idx % len(found)][0]
    retention = Retention(keep_last=keep_last, keep_every_steps=span, best=LOSS)
    removed = superfluous(found, newest, retention)
    kept = [path for path, _ in found if path not in removed]
    assert newest in kept
    assert {path for path, _ in found[-keep_last:]} <= set(kept)
    assert best_of(found, LOSS) in [*kept, None]
    # What is kept now is kept again, so that no later rotation undoes an earlier one.
    again = [(path, one) for path, one in found if path in kept]
    assert superfluous(again, newest, retention) == []


@pytest.fixture
def rotation(tmp_path: Path) -> tuple[Path, Path, Rotation]:
    finished = (tmp_path / "first" / "checkpoints", tmp_path / "first" / "final")
    retention = Retention(keep_last=2, finished=[finished])
    return (*finished, Rotation(tmp_path / "second", retention, attempt=1, disk=Disk()))


def whole(folder: Path, **facts: Any) -> Path:
    names = ["rank-00000.weights.safetensors", "rank-00000.optimizer.safetensors", "model.json"]
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source"
    source.write_bytes(b"bytes of a file")
    path = make_checkpoint(folder, 5, files=dict.fromkeys(names, hash_file(source)), **facts)
    for name in names:
        (path / name).write_bytes(source.read_bytes())
    source.unlink()
    return path


def test_finished_phase_is_reduced_to_its_weights_once_the_next_has_published(
    tmp_path: Path, rotation: tuple[Path, Path, Rotation]
) -> None:
    checkpoints, final, rotate = rotation
    path = whole(checkpoints, final=True)
    name = find_weights(str(path)).fingerprint()
    rotate.run(make_checkpoint(tmp_path / "second", 3))
    assert not path.exists()
    [reduced] = list_published(final)
    assert find_weights(str(reduced)).fingerprint() == name
    found = verify(reduced)
    assert found.weights_only
    assert found.final
    assert sorted(found.files) == ["model.json", "rank-00000.weights.safetensors"]
    assert not list(final.glob(".aside-*"))


def test_finished_phase_is_left_alone_when_its_last_was_resumed_from(
    tmp_path: Path, rotation: tuple[Path, Path, Rotation]
) -> None:
    checkpoints, final, _ = rotation
    path = whole(checkpoints, final=True)
    retention = Retention(keep_last=2, resumed_from=path, finished=[(checkpoints, final)])
    Rotation(tmp_path / "second", retention, attempt=1, disk=Disk()).run(
        make_checkpoint(tmp_path / "second", 3)
    )
    assert path.is_dir()
    assert list_published(final) == []


def test_reducing_is_taken_up_where_it_was_interrupted(
    tmp_path: Path, rotation: tuple[Path, Path, Rotation]
) -> None:
    checkpoints, final, rotate = rotation
    whole(checkpoints, final=True)
    (final / ".aside-step-00000005.a0001").mkdir(parents=True)
    (final / ".aside-step-00000005.a0001" / "model.json").write_text("half")
    newest = make_checkpoint(tmp_path / "second", 3)
    rotate.run(newest)
    [reduced] = list_published(final)
    verify(reduced)
    # Both are there when the kill fell between the two.
    again = whole(checkpoints, final=True)
    rotate.run(newest)
    assert not again.exists()
    assert list_published(final) == [reduced]


def test_other_checkpoints_of_a_finished_phase_stay(
    tmp_path: Path, rotation: tuple[Path, Path, Rotation]
) -> None:
    checkpoints, _, rotate = rotation
    path = whole(checkpoints, final=False)
    rotate.run(make_checkpoint(tmp_path / "second", 3))
    assert path.is_dir()


def test_checkpoints_of_another_session_are_neither_counted_nor_removed(
    tmp_path: Path, rotation: tuple[Path, Path, Rotation]
) -> None:
    checkpoints, final, _ = rotation
    ours = whole(checkpoints, final=True)
    foreign = [
        make_checkpoint(tmp_path / "second", 1, session="another"),
        make_checkpoint(tmp_path / "second", 900, session="another", validation={"loss": 0.0}),
        make_checkpoint(checkpoints, 7, session="another", final=True),
        make_checkpoint(final, 5, 9, session="another", final=True),
    ]
    kept = [make_checkpoint(tmp_path / "second", step) for step in (2, 3)]
    retention = Retention(keep_last=2, best=LOSS, adopted=foreign, finished=[(checkpoints, final)])
    rotate = Rotation(tmp_path / "second", retention, attempt=1, disk=Disk())
    rotate.run(kept[-1])
    assert all(path.is_dir() for path in [*foreign, *kept])
    assert not ours.exists()
    [reduced] = [path for path in list_published(final) if path not in foreign]
    assert Manifest.load(reduced).session == "s"


@pytest.mark.parametrize("is_final", [True, False])
def test_last_step_is_kept_once_when_more_than_its_training_is_saved(is_final: bool) -> None:
    names = ("step-00000010.a0001", "step-00000020-trained.a0001", "step-00000020.a0001")
    manifests = (manifest(10), manifest(20), manifest(20, final=is_final))
    found = [(Path(name), one) for name, one in zip(names, manifests, strict=True)]
    retention = Retention(keep_last=2, keep_every_steps=20)
    assert gone(found[:2], retention) == []
    assert gone(found, retention) == ["step-00000020-trained.a0001"]
    resumed = replace(retention, resumed_from=found[1][0])
    assert gone(found, resumed) == []
