from __future__ import annotations

from phaseline.config.tree import Node
from phaseline.config.upgrades import FORMAT, Upgrade, upgraded, with_old_defaults

RENAMED = Upgrade(
    FORMAT + 1,
    renamed={
        "session.name": "session.title",
        "phases.*.checkpoint.every": "phases.*.saves.every",
        "tracking.interval_steps": "tracking.interval",
    },
    dropped=("phases.*.old", "nowhere.at.all"),
)


def test_stored_settings_of_an_older_format_get_their_new_names_and_lose_what_is_no_more() -> None:
    stored = {
        "session": {"name": "a"},
        "phases": [{"checkpoint": {"every": "3 steps", "keep_last": 2}, "old": 1}, {"old": 2}],
    }
    assert upgraded(stored, FORMAT, (RENAMED,)) == {
        "session": {"title": "a"},
        "phases": [{"checkpoint": {"keep_last": 2}, "saves": {"every": "3 steps"}}, {}],
    }


def test_stored_settings_of_the_format_itself_are_left_alone() -> None:
    stored = {"session": {"name": "a"}, "phases": []}
    assert upgraded(stored, FORMAT + 1, (RENAMED,)) == {"session": {"name": "a"}, "phases": []}


def test_older_session_keeps_the_defaults_that_it_began_with_where_its_file_says_nothing() -> None:
    def leaf(value: str) -> Node:
        return Node(value, "a.yaml:3", ())

    phases = [
        Node({"schedule": Node({"warmup": leaf("5 steps")}, "", ())}, "", ()),
        Node({}, "", ()),
    ]
    root = Node({"phases": Node(phases, "", ())}, "a.yaml:1", ())
    newer = Upgrade(FORMAT + 1, old_defaults={"phases.*.schedule.warmup": "0 steps"})
    newest = Upgrade(FORMAT + 2, old_defaults={"phases.*.schedule.warmup": "1 steps"})

    def warmup_of_second(began_with: int) -> object:
        settings = with_old_defaults(root, began_with, (newer, newest))
        assert settings.find(("phases", 0, "schedule", "warmup")) == leaf("5 steps")
        found = settings.find(("phases", 1, "schedule", "warmup"))
        return None if found is None else found.value

    assert warmup_of_second(FORMAT) == "0 steps"
    assert warmup_of_second(FORMAT + 1) == "1 steps"
    assert warmup_of_second(FORMAT + 2) is None
