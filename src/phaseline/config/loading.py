"""Reads a session file into a configuration, or says everything that is wrong with it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from phaseline.config.bounds import MAX_INTEGER
from phaseline.config.cross_checks import PhaseRule, find_contradictions
from phaseline.config.environment import apply_environment
from phaseline.config.faults import faults_of
from phaseline.config.merging import merge_defaults
from phaseline.config.overrides import apply_overrides
from phaseline.config.partial import partial_config
from phaseline.config.path_text import require_path
from phaseline.config.places import Places, looking_in
from phaseline.config.registered import resolve_names
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, Node, found_text, path_text
from phaseline.config.upgrades import with_old_defaults
from phaseline.config.yaml_reading import read_file
from phaseline.errors import ConfigurationError, Fault


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and where it belongs.

    Attributes:
        config: The whole session, `defaults` merged into the phases.
        session_dir: The session directory.
        source: The file it was read from.
        root: What was written, with its lines, `defaults` merged into the phases.
    """

    config: Config
    session_dir: Path
    source: Path
    root: Node

    def locate(self, loc: Loc) -> str:
        """Where a setting was written: file and line, or the override."""
        node = self.root.find(loc)
        if node is not None:
            return node.location
        return f"{self.root.nearest(loc).location} does not set it"


def load_config(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    session_dir: Path | None = None,
    rules: Sequence[PhaseRule] = (),
    session_format: int | None = None,
    variables: Mapping[str, str] = os.environ,
    places: Callable[[Path], Places] | None = None,
) -> LoadedConfig:
    """Reads, merges and checks a session file.

    Args:
        path: The YAML file.
        overrides: Each `path=value`, as `phases[pretrain].optimizer.lr=1e-3`.
        session_dir: The session directory; None: `<session.root>/<session.name>`.
        rules: What phases are held against besides: rules that look at more than the file.
        session_format: The older format that the session began with, whose defaults it keeps;
            None: it is this version's.
        variables: The environment, which decides a few settings over the file.
        places: Says where the paths of the session in a directory lead; None: where they say.

    Raises:
        ConfigurationError: The file cannot be used; every fault that was found.
    """
    path = Path(path)
    root, faults_of_variables = apply_environment(read_file(path), variables)
    root, faults_of_overrides = apply_overrides(root, overrides)
    root, faults_of_defaults = merge_defaults(root)
    if session_format is not None:
        root = with_old_defaults(root, session_format)

    def directory_of(config: Config) -> Path:
        directory = Path(session_dir or config.session.directory)
        _require_path(directory)
        return directory

    def looking(config: Config) -> AbstractContextManager[None]:
        return looking_in(places(directory_of(config))) if places is not None else nullcontext()

    config, faults = _validate(root, rules, looking)
    told = {fault.path for fault in faults}
    faults += [fault for fault in _integers_beyond(root) if fault.path not in told]
    faults = [*faults_of_variables, *faults_of_overrides, *faults_of_defaults, *faults]
    if faults or config is None:
        raise ConfigurationError(_in_file_order(faults))
    config = resolve_names(config)
    return LoadedConfig(config=config, session_dir=directory_of(config), source=path, root=root)


def _validate(
    root: Node,
    rules: Sequence[PhaseRule] = (),
    looking: Callable[[Config], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> tuple[Config | None, list[Fault]]:
    """The configuration, and all that speaks against it.

    Args:
        root: What was written.
        rules: What phases are held against besides.
        looking: Has paths lead to where the session of the configuration finds them.
    """
    plain = root.plain()
    try:
        # Strict, and through JSON: there a list is what a tuple is given as, a text is no
        # number, and true is no 1.
        config = Config.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        faults = faults_of(error, root)
        partial = partial_config(plain)
        if partial is not None:
            faults += find_contradictions(partial, root, rules, is_partial=True)
        return None, faults
    with looking(config):
        return config, find_contradictions(config, root, rules)


def _require_path(session_dir: Path) -> None:
    try:
        require_path(str(session_dir))
    except ValueError as error:
        fault = Fault("the session directory", "", str(error), "Choose another --session.")
        raise ConfigurationError([fault]) from None


def _integers_beyond(node: Node) -> Iterator[Fault]:
    """Whole numbers that 64 bits do not hold, among the arguments of other code too."""
    for member in (node.mapping or {}).values():
        yield from _integers_beyond(member)
    for member in node.items or ():
        yield from _integers_beyond(member)
    if isinstance(node.value, int) and abs(node.value) > MAX_INTEGER:
        problem = f"is {found_text(node.value)}; it must be at most {MAX_INTEGER}, 64 bits"
        fix = "Write a smaller number."
        yield Fault(path_text(node.origin), node.location, problem, fix)


def _in_file_order(faults: list[Fault]) -> list[Fault]:
    """By line, as one goes through the file to mend it; overrides come last."""

    def line_of(fault: Fault) -> float:
        line = fault.location.rpartition(":")[2]
        is_override = fault.location.startswith("-o ")
        return int(line) if line.isdigit() and not is_override else math.inf

    return sorted(faults, key=line_of)
