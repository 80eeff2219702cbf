"""Session files that somebody got wrong: seeded mutants of files that are right."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseline.config.known import OPTIMIZERS
from phaseline.config.known_objectives import OBJECTIVES
from phaseline.config.known_sources import SOURCES
from phaseline.config.schema import homes
from phaseline.config.tree import Loc, path_text
from phaseline.config.yaml_reading import read_file
from unit.config.session_text import settings

_RAW = re.compile(r'"@@(.*?)@@"')
"""What stands in JSON as a text and in the file as it is: YAML that JSON cannot write."""

_SCALARS = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 10**9, 10**12, 2**31, 2**63 - 1, -(2**63)),
    *(0.0, -0.5, 0.5, 1.5, 1e-320, 1e-30, 1e30, 1e300, 1.7e308, 5e-324, -1e300),
    *("", " ", "x", "7", "1e-3", "-1", "true", "null", "400 steps", "9" * 300 + " steps"),
    *("1e400 tokens", "0.0000000000000001 epochs", "8192 tokens", "9" * 40 + " tokens", "5GB"),
    *(
        "9" * 5000 + "GB",
        "0-255",
        "9" * 30 + "-" + "9" * 31,
        "5-1",
        "..",
        "/",
        "~",
        "~nobody-here/x",
    ),
    *("a/" * 3000, "x" * 300, "x" * 5000, "phase:first", "hub:a/b", "hub:", "hub:a b", "previous"),
    *("json:dumps", "no_such_package:Thing", "json:", ":x", "a.b.c:d.e", "llama", "gpt2", "vit"),
    *("(" * 3000 + ")" * 3000, "a{99999999999}", "[", "(?P<", "{{", "{% if %}", "{{ " + "(" * 900),
    *(
        "\x1b[31mred",
        "a\nb",
        "ünï",
        "\U0001f4a5",
        "\u202eabc",
        "$(id)",
        "'",
        '"',
        "12:00:00",
        "99-99:99",
    ),
    *("fp16", "bf16", "adamw", "cosine", "sft", "dpo", "causal_lm", "[x]", "a=b", "{a: 1}", "0x1F"),
)
_RAW_SCALARS = (
    *("1" * 100_000, "0x" + "f" * 300, "1e400", "-1e400", ".inf", "-.inf", ".nan", "1" * 31),
    *(
        "1" + "0" * 400,
        "1_000",
        "012",
        "0o777",
        "0b11",
        "1:30",
        "+5",
        "5.",
        ".5",
        "1e5",
        "2026-01-31",
    ),
    *(
        "!!int x",
        "!!float y",
        "!!bool z",
        "!!python/object:os.system {}",
        "!own 1",
        "!!binary aGk=",
    ),
    *("!!set {a, b}", "!!null x", '"\\uD800"', '"\\0"', '"\\x07"', '"\\uDFFF\\uD800"', "*nowhere"),
    *(
        "&a {b: *a}",
        "&a [*a]",
        "{<<: 3}",
        "{<<: [1, 2]}",
        "{<<: {x: 1}}",
        "{? [1, 2] : 3}",
        "{a, b}",
    ),
    *("|\n  text", "'it''s'", "@x", "`x`", "%x", "- x", "? x", "[1, 2", "{a: 1", "]", "}"),
    *("[" * 260, "[" * 260 + "]" * 260, "{a: " * 200 + "1" + "}" * 200, "{a: 1, a: 2}"),
    '"' + "\\n" * 50_000 + '"',
    "{" + ", ".join(f"k{idx}: {idx}" for idx in range(400)) + "}",
)
_ODD = (
    *("\t", "\0", "\x07", "\x1b[2J", "\x85", "\u00a0", "\u2028", "\ufeff", "\ufffe", "\U0001f4a5"),
    *('"', "'", "[", "]", "{", "}", "*", "&", "!", "%", "@", "`", "|", ">", "#", ":", ": ", "? "),
    *("- ", "---\n", "...\n", "<<: *x\n", ",", "\\", "\r", "\r\n", "  ", "\n\n", "%YAML 1.1\n"),
)


_TAKEN = (
    *(source.arguments for source in SOURCES.values()),
    *(objective.arguments for objective in OBJECTIVES.values()),
    *OPTIMIZERS.values(),
)
_ARGUMENTS = sorted({name for arguments in _TAKEN for name in arguments})


@dataclass(frozen=True)
class Mutant:
    """One try.

    Attributes:
        content: Of the session file.
        overrides: Of the command line.
        story: What was done to it, to find it again.
    """

    content: bytes
    overrides: tuple[str, ...]
    story: str


class Mutation:
    """Makes mutants of session files; the same seed gives the same."""

    def __init__(self, files: list[Path], seed: int) -> None:
        """Reads the files, which are right."""
        self._random = random.Random(seed)
        self._texts = {file.name: file.read_text(encoding="utf-8") for file in files}
        self._trees = {file.name: read_file(file) for file in files}
        self._keys = sorted(homes())
        self._settings = list(settings())

    def next(self) -> Mutant:
        """Another one."""
        name = self._random.choice(sorted(self._texts))
        kind = self._random.choice(
            (self._of_tree, self._of_tree, self._of_text, self._of_overrides)
        )
        mutant = kind(name)
        return Mutant(mutant.content, mutant.overrides, f"{name}: {mutant.story}")

    def _of_text(self, name: str) -> Mutant:
        """Lines removed, doubled, moved and indented, odd characters, cuts."""
        text, stories = self._texts[name], []
        for _ in range(self._random.randint(1, 3)):
            text, story = self._random.choice(_TEXT_CHANGES)(text, self._random)
            stories.append(story)
        content = text.encode("utf-8", errors="surrogatepass")
        if self._random.random() < 0.1:
            place = self._random.randrange(len(content) + 1)
            content = content[:place] + self._random.randbytes(3) + content[place:]
            stories.append(f"bytes at {place}")
        return Mutant(content, (), ", ".join(stories))

    def _of_tree(self, name: str) -> Mutant:
        """Values, keys and sections of another kind or at another place."""
        plain, stories = self._trees[name].plain(), list[str]()
        for _ in range(self._random.choice((1, 1, 1, 2, 4))):
            stories += [self._change(plain)]
        text = json.dumps(plain, indent=1, ensure_ascii=False)
        text = _RAW.sub(lambda match: str(json.loads(f'"{match[1]}"')), text)
        return Mutant(text.encode("utf-8", errors="surrogatepass"), (), ", ".join(stories))

    def _of_overrides(self, name: str) -> Mutant:
        """The file as it is, and words on the command line that are not."""
        overrides = []
        for _ in range(self._random.randint(1, 3)):
            path = self._path(name)
            if self._random.random() < 0.3:
                place = self._random.randrange(len(path) + 1)
                odd = self._random.choice((*_ODD, "[99999999999999999999]", "[*]", "." * 9000))
                path = path[:place] + odd + path[place:]
            value = self._value()
            text = _raw_text(value) or json.dumps(value, ensure_ascii=False)
            equals = self._random.choice(("=", "=", "=", "= ", "", "=="))
            # What a shell cannot hand over.
            overrides.append(f"{path}{equals}{text}".replace("\0", "")[:60_000])
        story = " ".join(override[:80] for override in overrides)
        return Mutant(self._texts[name].encode(), tuple(overrides), story)

    def _path(self, name: str) -> str:
        """A setting that the file has, or any that the schema or something built in has."""
        if self._random.random() < 0.4:
            return path_text(self._random.choice(_places(self._trees[name].plain())))
        path = path_text(self._random.choice(self._settings))
        if path.endswith("arguments"):
            path += f".{self._random.choice(_ARGUMENTS)}"
        return path

    def _change(self, plain: object) -> str:
        """Changes one place of a tree, and says how."""
        loc = self._random.choice(list(_places(plain)))
        owner, key = _owner(plain, loc), loc[-1]
        path = path_text(loc)
        how = self._random.randrange(6)
        if how == 0 and isinstance(owner, dict):
            name = self._other_name(str(key))
            owner[name] = owner.pop(key)
            return f"{path} renamed {name!r}"
        if how == 1:
            del owner[key]
            return f"{path} removed"
        if how == 2:
            other = self._random.choice(list(_places(plain)))
            owner[key] = json.loads(json.dumps(_at(plain, other)))
            return f"{path} is {path_text(other)}"
        if how == 3:
            depth = self._random.choice((1, 2, 60, 300))
            for _ in range(depth):
                owner[key] = [owner[key]] if self._random.random() < 0.5 else {"a": owner[key]}
            return f"{path} wrapped {depth} times"
        if how == 4 and isinstance(owner, dict):
            name = self._random.choice(self._keys)
            owner[name] = self._value()
            return f"{path}: beside it {name}"
        owner[key] = self._value()
        return f"{path} is {str(owner[key])[:60]!r}"

    def _value(self) -> object:
        """Anything that YAML can hold, and some that it cannot."""
        how = self._random.randrange(10)
        if how < 5:
            return self._random.choice(_SCALARS)
        if how < 8:
            return f"@@{self._random.choice(_RAW_SCALARS)}@@"
        members = [self._random.choice(_SCALARS) for _ in range(self._random.randint(0, 3))]
        if how == 8:
            return members
        return {self._other_name("name") + str(idx): one for idx, one in enumerate(members)}

    def _other_name(self, name: str) -> str:
        how = self._random.randrange(5)
        if how == 0:
            return self._random.choice(self._keys)
        if how == 1:
            return name[:-1] or "_"
        if how == 2:
            place = self._random.randrange(len(name) + 1)
            return name[:place] + self._random.choice(_ODD) + name[place:]
        if how == 3:
            return name.upper()
        return self._random.choice(
            ("", " ", "x" * 300, "<<", "=", "0", "null", "ключ", "a.b", "a[0]")
        )


def _raw_text(value: object) -> str:
    """What is written as it is; empty of any other value."""
    is_raw = isinstance(value, str) and value.startswith("@@")
    return str(value)[2:-2] if is_raw else ""


def _places(plain: object, loc: Loc = ()) -> list[Loc]:
    """The path of every value in a tree but the root."""
    found: list[Loc] = [loc] if loc else []
    members = (
        plain.items()
        if isinstance(plain, dict)
        else enumerate(plain)
        if isinstance(plain, list)
        else ()
    )
    for key, value in members:
        found += _places(value, (*loc, key))
    return found


def _at(plain: Any, loc: Loc) -> Any:
    for key in loc:
        plain = plain[key]
    return plain


def _owner(plain: Any, loc: Loc) -> Any:
    owner = _at(plain, loc[:-1])
    assert isinstance(owner, (dict, list))
    return owner


def _remove_line(text: str, rng: random.Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    place = rng.randrange(len(lines)) if lines else 0
    return "".join(lines[:place] + lines[place + 1 :]), f"line {place + 1} removed"


def _repeat_line(text: str, rng: random.Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True) or [""]
    place, times = rng.randrange(len(lines)), rng.choice((1, 1, 2, 50))
    return "".join(
        lines[:place] + [lines[place]] * times + lines[place:]
    ), f"line {place + 1} again"


def _move_line(text: str, rng: random.Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True) or [""]
    there, here = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines.insert(there, lines.pop(here))
    return "".join(lines), f"line {here + 1} to {there + 1}"


def _indent_line(text: str, rng: random.Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True) or [""]
    place, indent = rng.randrange(len(lines)), rng.choice((" ", "  ", "\t", "      "))
    lines[place] = lines[place][1:] if rng.random() < 0.3 else indent + lines[place]
    return "".join(lines), f"line {place + 1} indented"


def _insert_odd(text: str, rng: random.Random) -> tuple[str, str]:
    place, odd = rng.randrange(len(text) + 1), rng.choice(_ODD)
    return text[:place] + odd + text[place:], f"{odd!r} at {place}"


def _cut(text: str, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(text) + 1)
    return (
        (text[:place], f"cut at {place}") if rng.random() < 0.5 else (text[place:], f"from {place}")
    )


def _replace_value(text: str, rng: random.Random) -> tuple[str, str]:
    lines = text.splitlines(keepends=True) or [""]
    place = rng.randrange(len(lines))
    key, colon, _ = lines[place].partition(": ")
    value = rng.choice(_RAW_SCALARS)
    if colon:
        lines[place] = f"{key}: {value}\n"
    return "".join(lines), f"line {place + 1} is {value[:40]!r}"


def _alias(text: str, rng: random.Random) -> tuple[str, str]:
    """Aliases of aliases, which double, or merge three times, at each turn."""
    turns, form = (
        rng.choice((3, 12, 30)),
        rng.choice(("[*a{0}, *a{0}]", "{{<<: [*a{0}, *a{0}, *a{0}]}}")),
    )
    first = "&a0 {x: 1}" if "<<" in form else "&a0 [x]"
    members = [f"a0: {first}"] + [f"a{n + 1}: &a{n + 1} {form.format(n)}" for n in range(turns)]
    bomb = ", ".join(members)
    place = rng.choice(("notes", "arguments", "defaults"))
    return f"{text}\n{place}: {{{bomb}}}\n", f"{turns} turns of {form}"


_TextChange = Callable[[str, random.Random], tuple[str, str]]
_TEXT_CHANGES: tuple[_TextChange, ...] = (
    *(_remove_line, _repeat_line, _move_line, _indent_line, _insert_odd, _insert_odd, _cut),
    *(_replace_value, _replace_value, _alias),
)
