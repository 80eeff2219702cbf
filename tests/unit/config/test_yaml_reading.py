from __future__ import annotations

import re
from pathlib import Path

import pytest

from phaseline.config.yaml_reading import read_file, read_text
from phaseline.errors import ConfigurationError


def _read(text: str) -> object:
    node = read_text(text, lambda line: f"line {line}")
    return node.plain() if node is not None else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5e6", 5e6),
        ("3", 3),
        ("-3", -3),
        ("1_000", 1000),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("3.", 3.0),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("~", None),
        ("'3'", "3"),
        ("2026-01-31", "2026-01-31"),
        ("1:30", "1:30"),
        ("400 steps", "400 steps"),
        ("[1, [a, null]]", [1, ["a", None]]),
        ("# nothing", None),
    ],
)
def test_read_text_follows_yaml_1_2_when_value_is_plain(text: str, value: object) -> None:
    found = _read(text)
    assert found == value
    assert type(found) is type(value)


def test_read_text_knows_line_of_every_key_when_nested() -> None:
    node = read_text("a: 1\nb:\n  c:\n    - x\n    - d: 2\n", lambda line: f"f:{line}")
    assert node is not None
    found = {loc: node.nearest(loc).location for loc in (("a",), ("b", "c"), ("b", "c", 1, "d"))}
    assert found == {("a",): "f:1", ("b", "c"): "f:3", ("b", "c", 1, "d"): "f:5"}
    assert node.nearest(("b", "missing")).location == "f:2"


def test_read_text_reports_every_duplicate_when_keys_repeat() -> None:
    with pytest.raises(ConfigurationError, match="given twice, first at line 1") as raised:
        _read("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert [fault.path for fault in raised.value.faults] == ["a", "b.c"]
    assert [fault.location for fault in raised.value.faults] == ["line 2", "line 3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1", r"is indented with a tab \(line 2\)"),
        ("a: [1", r"is no YAML: expected ',' or '\]', but got the end of the file"),
        ("a: *b", r"is no YAML: found undefined alias 'b' \(line 1\)"),
        ("a: &x\n  b: *x", r"a\.b is an alias of a section around it \(line 2\)"),
        ("- a\nb: 1", r"the line does not fit the indentation"),
        ("a: 1\nb: \x01", r"holds the character .* \(line 2\)"),
        ("? [1, 2]\n: 3", r"has a key that is no text"),
        ("a: 1\n<<: 3", r"merges \(`<<`\) 3 \(line 2\)"),
        ("a: !!int x", r"a is 'x', which is no int"),
        ("a: -.inf", r"a is -\.inf \(.*\); it must be finite"),
        ("a: 1e400", r"a is 1e400 \(line 1\); it must be finite, and at most 1e308"),
        ("a: " + "1" * 100_000, r"a is a number of 100,000 characters \(line 1\); it may have 400"),
        ('a: "x\\uD800"', r"a holds \\ud800, which is half of a character \(line 1\)"),
        ('"\\uDFFF": 1', r"has a key that holds \\udfff, which is half of a character"),
        ('a: ["\\0"]', r"a\[0\] holds the character \\0, which no path and no name can"),
        ("k" * 300 + ": 1", r"has a key that is a text of 300 characters \(.*\); it may have 200"),
        ("a: " + "x" * 100_001, r"a is a text of 100,001 characters \(.*\); it may have 100,000"),
        ("a:\n  " + "[" * 250, r"is nested deeper than 50 levels \(line 2\)"),
        ("a: " + "[" * 60 + "]" * 60, r"is nested deeper than 50 levels \(line 1\)"),
        ("- " * 300 + "x", r"is nested deeper than 50 levels \(line 1\)"),
    ],
)
def test_read_text_names_the_line_when_syntax_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _read(text)


@pytest.mark.parametrize(
    "form",
    [
        "[*a{0}, *a{0}]",
        "{{x: *a{0}, y: *a{0}}}",
        "{{<<: [*a{0}, *a{0}, *a{0}]}}",
        "{{<<: {{<<: *a{0}, x: *a{0}}}, y: *a{0}}}",
    ],
)
def test_read_text_refuses_when_aliases_multiply(form: str) -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n + 1}: &a{n + 1} {form.format(n)}" for n in range(30))]
    with pytest.raises(ConfigurationError, match=r"over 30,000 values .*fewer aliases") as raised:
        _read("\n".join(lines))
    assert re.fullmatch(r"line \d+", raised.value.faults[0].location)


@pytest.mark.parametrize("text", ["a: [" + "x, " * 40_000 + "]", "- \n" * 40_000])
def test_read_text_refuses_when_more_is_written_than_a_session_has(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"over 30,000 values .*patterns instead of lists"):
        _read(text)


def test_read_text_refuses_when_aliases_lie_in_each_other() -> None:
    lines = ["a0: &a0 [1]", *(f"a{n + 1}: &a{n + 1} [*a{n}]" for n in range(60))]
    with pytest.raises(ConfigurationError, match=r"nested deeper than 50 levels \(line \d+\)"):
        _read("\n".join(lines))


def test_read_text_takes_what_is_as_large_as_it_may_be() -> None:
    deep = "[" * 49 + "1" + "]" * 49
    found = _read(f"a: {deep}\nb: {2**63 - 1}\nc: {-(2**63 - 1)}\nd: {'x' * 100_000}")
    assert isinstance(found, dict)
    assert found["b"] == 2**63 - 1


def test_read_file_refuses_when_it_is_no_session_file_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "session.yaml"
    path.write_bytes(b"# comment\n" * 200_000)
    with pytest.raises(ConfigurationError, match="is larger than a session file can be, 1 MiB"):
        read_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"session\.yaml\)\. It must hold at least session, model and phases"),
        (b"# only this\n", "configuration is empty"),
        (b"a: 1\nb: \xff\n", r"is not UTF-8: it holds the byte 0xff \(.*session\.yaml:2\)"),
        (b"just text", r"is 'just text' \(.*\); it must be a section of keys and values"),
    ],
)
def test_read_file_says_why_when_content_is_no_session(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "session.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_file(path)


def test_read_file_ignores_byte_order_mark_when_present(tmp_path: Path) -> None:
    path = tmp_path / "session.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_file(path).plain() == {"a": 1}


def test_read_file_suggests_neighbour_when_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    with pytest.raises(
        ConfigurationError, match=r"does not exist .*Did you mean .*quickstart\.yaml"
    ):
        read_file(tmp_path / "quickstrat.yaml")


def test_read_file_names_a_member_when_path_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    with pytest.raises(ConfigurationError, match=r"is a folder.*; .*as .*quickstart\.yaml"):
        read_file(tmp_path)
