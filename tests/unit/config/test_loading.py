from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phaseline.config.loading import _validate, load_config
from phaseline.config.merging import merge_defaults
from phaseline.config.overrides import apply_overrides
from phaseline.config.tree import path_text
from phaseline.config.yaml_reading import read_file
from phaseline.errors import ConfigurationError, ExitCode, UnreachableFileError
from unit.config.session_text import VALID, load, settings, write

_CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("name", sorted(path.name for path in _CONFIGS.glob("*.yaml")))
def test_load_config_accepts_when_file_is_shipped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(_CONFIGS.parent / "examples")
    loaded = load_config(_CONFIGS / name)
    assert loaded.source == _CONFIGS / name
    assert loaded.session_dir == Path("runs") / loaded.config.session.name


def test_load_config_places_session_when_directory_is_given(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path), session_dir=tmp_path / "elsewhere")
    assert loaded.session_dir == tmp_path / "elsewhere"


def test_load_config_merges_defaults_when_phase_is_silent(tmp_path: Path) -> None:
    first, second = load(tmp_path).phases
    assert (first.optimizer.lr, second.optimizer.lr) == (3e-4, 1e-4)
    assert first.data == second.data
    assert first.data.sources[0].source == "python_stdlib"


def test_load_config_replaces_lists_when_phase_has_its_own(tmp_path: Path) -> None:
    text = VALID.replace("    lr: 3e-4", "    lr: 3e-4\n    no_decay: [a, b]")
    config = load(tmp_path, "phases[1].optimizer.no_decay=[c]", text=text)
    assert [phase.optimizer.no_decay for phase in config.phases] == [("a", "b"), ("c",)]


def test_load_config_drops_default_arguments_when_phase_names_another_optimizer(
    tmp_path: Path,
) -> None:
    text = VALID.replace("    lr: 3e-4", "    lr: 3e-4\n    arguments: {eps: 1e-6}")
    config = load(tmp_path, "phases[1].optimizer.name=adamw", text=text)
    assert config.phases[0].optimizer.arguments == {"eps": 1e-6}
    config = load(
        tmp_path, "defaults.optimizer.name=adamw", "phases[1].optimizer.name=lion", text=text
    )
    assert config.phases[0].optimizer.arguments == {"eps": 1e-6}
    assert config.phases[1].optimizer.arguments == {}


def test_load_config_drops_default_source_when_phase_lists_sources(tmp_path: Path) -> None:
    text = VALID.replace(
        "    sequence_length", "    arguments: {packages: [json]}\n    sequence_length"
    )
    config = load(
        tmp_path,
        "phases[1].data.sources=[{source: text_files, arguments: {paths: [a]}}]",
        text=text,
    )
    assert config.phases[0].data.sources[0].arguments == {"packages": ["json"]}
    assert config.phases[1].data.sources[0].arguments == {"paths": ["a"]}
    assert config.phases[1].data.sequence_length == 64


def test_load_config_allows_default_without_effect_when_another_phase_uses_it(
    tmp_path: Path,
) -> None:
    text = VALID.replace("  batch:", "  schedule: {name: wsd, decay: 10 steps}\n  batch:")
    config = load(tmp_path, "phases[1].schedule.name=cosine", text=text)
    assert [phase.schedule.name for phase in config.phases] == ["wsd", "cosine"]


def test_load_config_refuses_default_once_when_no_phase_uses_it(tmp_path: Path) -> None:
    text = VALID.replace("  batch:", "  schedule: {decay: 10 steps}\n  batch:")
    with pytest.raises(ConfigurationError, match=r"defaults\.schedule\.decay") as raised:
        load(tmp_path, text=text)
    assert len(raised.value.faults) == 1


def test_load_config_names_phase_when_default_contradicts_only_that_phase(tmp_path: Path) -> None:
    text = VALID.replace("  batch:", "  schedule: {warmup: 70 steps}\n  batch:")
    with pytest.raises(ConfigurationError, match=r"phases\[1\]\.schedule\.warmup is '70 steps'"):
        load(tmp_path, text=text)


def test_load_config_takes_merge_keys_when_file_uses_anchors(tmp_path: Path) -> None:
    text = VALID.replace("  - name: first\n", "  - &base\n    name: first\n").replace(
        "  - name: second\n    objective: causal_lm\n", "  - <<: *base\n    name: second\n"
    )
    first, second = load(tmp_path, text=text).phases
    assert (first.objective, first.name) == (second.objective, "first")
    assert second.duration.value == 50


def test_load_config_reports_contradictions_when_schema_faults_are_elsewhere(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="in the configuration") as raised:
        load(
            tmp_path,
            "session.seed=x",
            "phases[0].duration=100",
            "phases[0].schedule.warmup=500 steps",
            "phases[1].schedule.name=wsd",
            "export.phases=[third]",
        )
    assert [fault.path for fault in raised.value.faults] == [
        "session.seed",
        "phases[0].duration",
        "export.phases[0]",
        # Nothing is said of the warm-up: what it has to fit into is not known.
        "phases[1].schedule.decay",
    ]


def test_load_config_imports_no_torch_when_called(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from phaseline.config.loading import load_config;"
        "load_config(Path(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'numpy', 'deepspeed'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(tmp_path))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("value", ["null", "true", "-3", "2.5", "x", "''", "[]", "[x]", "{a: 1}"])
def test_load_config_words_every_fault_when_any_setting_has_any_kind_of_value(
    tmp_path: Path, value: str
) -> None:
    file = read_file(write(tmp_path))
    for loc in settings():
        override = f"{path_text(loc)}={value}"
        root, faults = apply_overrides(file, [override])
        root, more = merge_defaults(root)
        _, found = _validate(root)
        for fault in [*faults, *more, *found]:
            assert fault.path
            assert fault.fix
            assert fault.problem
            assert fault.location


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENFILE])
def test_file_that_cannot_be_read_just_now_is_no_fault_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = write(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "as a server that is away", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreachableFileError, match=f"{path} cannot be read or written now") as told:
        load_config(path)
    assert told.value.exit_code is ExitCode.FAILED


def test_load_config_takes_the_home_folder_for_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load_config(write(tmp_path), ["session.root=~/runs"])
    assert loaded.session_dir == tmp_path / "runs" / "test"


def test_chat_template_is_read_from_a_file_of_a_bounded_size_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"a" * (1 << 20) + b"a")
    path = write(tmp_path)
    for name, problem in [
        ("/dev/zero", "it is no regular file"),
        (str(tmp_path / "pipe"), "it is no regular file"),
        (str(tmp_path / "large"), "it is larger than 1 MiB"),
    ]:
        with pytest.raises(ConfigurationError, match=f"a file that cannot be read: {problem}"):
            load_config(path, [f"tokenizer.chat_template={name}"])
