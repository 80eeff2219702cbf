"""The detailed configuration of a run: the file, its overrides, and this world's shape."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.config.batch_layout import BatchLayout
from phaseline.config.resolved import fingerprint, from_yaml, with_values
from phaseline.config.sections import Config
from phaseline.config.tree import Loc
from phaseline.errors import ConfigurationError, Fault
from phaseline.session.layout import SessionLayout
from phaseline.session.session_file import load_session_file


def _stored(_loc: Loc) -> str:
    return "the session's config.yaml"


@dataclass(frozen=True, kw_only=True)
class TrainingConfiguration:
    """What a run does, in every detail that is known before it starts.

    Attributes:
        config: The resolved sections.
        session_dir: The session's directory, which is its identity.
        layouts: Per phase, how a global batch is spread over ranks and micro-steps.
        fingerprint: Of everything that determines the numbers.
        locate: Where a setting was written: file and line, or the override.
    """

    config: Config
    session_dir: Path
    layouts: tuple[BatchLayout, ...]
    fingerprint: str
    locate: Callable[[Loc], str] = field(default=_stored, compare=False, repr=False)

    def with_values(
        self, values: Sequence[tuple[Sequence[str | int], Any]]
    ) -> TrainingConfiguration:
        """The same with other values of some settings, each with its path."""
        if not values:
            return self
        config = with_values(self.config, [(tuple(loc), value) for loc, value in values])
        return replace(self, config=config, fingerprint=fingerprint(config))


class ConfigurationBuilder:
    """Builds the configuration of a run. It imports no torch."""

    def __init__(
        self, path: Path, *, overrides: Sequence[str] = (), session_dir: Path | None = None
    ) -> None:
        """Takes what the caller said.

        Args:
            path: The session file.
            overrides: As `phases[0].optimizer.lr=1e-3`.
            session_dir: Instead of `<session.root>/<session.name>`.
        """
        self._path = path
        self._overrides = tuple(overrides)
        self._session_dir = session_dir

    def build(self, *, dp_world_size: int, in_place: bool = False) -> TrainingConfiguration:
        """Reads and checks everything.

        Args:
            dp_world_size: Data-parallel ranks of this run.
            in_place: Whether all phases will run in this one process.

        Raises:
            ConfigurationError: Carrying every fault.
        """
        loaded = load_session_file(
            self._path,
            self._overrides,
            session_dir=self._session_dir,
            rules=weights_can_be_read(self._session_dir),
        )
        faults = list(self._needs_fresh_images(loaded.config)) if in_place else []
        if faults:
            raise ConfigurationError(faults)
        detailed = _detail(loaded.config, loaded.session_dir, dp_world_size)
        return replace(detailed, locate=loaded.locate)

    @staticmethod
    def stored(session_dir: Path, *, dp_world_size: int) -> TrainingConfiguration:
        """Reads what an open session stored when it was opened.

        The images of one attempt go by this: the session file may be edited while they run.
        """
        text = SessionLayout(session_dir).config_file.read_text(encoding="utf-8")
        return _detail(from_yaml(text), session_dir, dp_world_size)

    def _needs_fresh_images(self, config: Config) -> Iterator[Fault]:
        """A lone phase may leave its memory behind: nothing comes after it that would need it."""
        if len(config.phases) == 1:
            return
        for idx, phase in enumerate(config.phases):
            if phase.engine.kind == "deepspeed" and phase.engine.zero_stage == 3:
                yield Fault(
                    f"phases[{idx}].engine.zero_stage",
                    str(self._path),
                    "is 3 in a session of several phases that runs in one process, where "
                    "DeepSpeed's ZeRO-3 engines leave their memory behind; it must be 0, 1 or 2 "
                    "there, or the session have this phase alone",
                    f"Start it with `{self._launch_command()}`, which gives every phase a fresh "
                    "process.",
                )

    def _launch_command(self) -> str:
        words = ["phaseline", "launch", str(self._path)]
        for override in self._overrides:
            words += ["-o", override]
        if self._session_dir is not None:
            words += ["--session", str(self._session_dir)]
        return shlex.join(words)


def _detail(config: Config, session_dir: Path, dp_world_size: int) -> TrainingConfiguration:
    layouts = tuple(
        BatchLayout.derive(
            phase.global_size,
            phase.batch.micro_size,
            dp_world_size,
            path=f"phases[{idx}].batch",
        )
        for idx, phase in enumerate(config.phases)
    )
    return TrainingConfiguration(
        config=config,
        session_dir=session_dir,
        layouts=layouts,
        fingerprint=fingerprint(config),
    )
