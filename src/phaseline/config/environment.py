"""Settings that the environment decides, as users of other tools know it."""

from __future__ import annotations

from collections.abc import Mapping

from phaseline.config.tree import Loc, Node
from phaseline.errors import Fault

WANDB_MODE = "WANDB_MODE"
WANDB_DISABLED = "WANDB_DISABLED"
_MODE: Loc = ("tracking", "wandb", "mode")
_MODES = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    # Older names, which wandb still takes, and its mode for several writers of one run.
    "run": "online",
    "dryrun": "offline",
    "shared": "online",
}

_TRUE = frozenset({"1", "true", "yes", "on"})
"""What transformers' trainer and older wandb take for true in `WANDB_DISABLED`."""


def apply_environment(root: Node, variables: Mapping[str, str]) -> tuple[Node, list[Fault]]:
    """Sets what the environment says, over what the file says.

    Args:
        root: The file's tree.
        variables: The environment.

    Returns:
        The changed tree, and what is wrong with variables that could not be used.
    """
    name, given = WANDB_MODE, variables.get(WANDB_MODE, "").strip()
    if not given and variables.get(WANDB_DISABLED, "").strip().lower() in _TRUE:
        name, given = WANDB_DISABLED, "disabled"
    if not given:
        return root, []
    mode = _MODES.get(given)
    location = f"{name} in the environment"
    if mode is None:
        problem = f"is {given!r}; it must be one of {', '.join(_MODES)}"
        return root, [Fault("tracking.wandb.mode", location, problem, f"Unset {WANDB_MODE}.")]
    return _set(root, _MODE, Node(mode, location, _MODE), location), []


def _set(node: Node | None, keys: Loc, value: Node, location: str) -> Node:
    if not keys:
        return value
    if node is not None and node.value is not None and node.mapping is None:
        return node  # no section, which is said when it is checked
    members = (node.mapping or {}) if node is not None else {}
    changed = _set(members.get(str(keys[0])), keys[1:], value, location)
    origin = _MODE[: len(_MODE) - len(keys)]
    place = node.location if node is not None and node.value is not None else location
    return Node({**members, str(keys[0]): changed}, place, origin)
