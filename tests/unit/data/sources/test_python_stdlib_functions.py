from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from phaseline.data.sources.python_stdlib_functions import PythonStdlibFunctions, extract_pairs


def _pairs(text: str) -> dict[str, tuple[str, str]]:
    return {pair.id: (pair.prompt, pair.completion) for pair in extract_pairs("a.py", dedent(text))}


def test_pair_is_cut_after_the_docstring_when_a_function_has_one() -> None:
    pairs = _pairs(
        '''\
        @decorated
        def add(first,
                second=1):
            """Adds."""

            # Why.
            return first + second  # Sum.

        other = 1
        '''
    )
    assert pairs == {
        "a.py::add:2": (
            'def add(first,\n        second=1):\n    """Adds."""\n',
            "\n    # Why.\n    return first + second  # Sum.\n",
        )
    }


def test_methods_move_to_the_left_edge_when_they_are_nested() -> None:
    pairs = _pairs(
        '''\
        class Outer:
            class Inner:
                async def wait(self):
                    """Waits
                    long.
                    """
                    text = """
        kept
                        also"""
                    return text
        '''
    )
    (((name, (prompt, completion)),)) = pairs.items()
    assert name == "a.py::Outer.Inner.wait:3"
    assert prompt == 'async def wait(self):\n    """Waits\n    long.\n    """\n'
    assert completion.splitlines()[1] == "kept"
    assert completion.splitlines()[-1] == "    return text"


def test_functions_are_found_when_they_stand_in_blocks() -> None:
    pairs = _pairs(
        """\
        try:
            import fast
        except ImportError:
            def slow(x):
                "Slow."
                return x
        """
    )
    assert list(pairs.values()) == [('def slow(x):\n    "Slow."\n', "    return x\n")]


@pytest.mark.parametrize(
    "body",
    [
        "return 1",
        '"""Doc."""',
        '"""Doc."""\n    pass',
        '"""Doc."""\n    ...',
        '"""Doc."""; return 1',
        'f"""No doc."""\n    return 1',
    ],
)
def test_function_is_left_out_when_there_is_nothing_to_learn(body: str) -> None:
    assert _pairs(f"def f():\n    {body}\n") == {}


def test_one_line_function_is_left_out_when_it_cannot_be_cut() -> None:
    assert _pairs("def f(): 'Doc.'; return 1\n") == {}


def test_inner_functions_stay_in_the_body_when_the_outer_one_is_cut() -> None:
    text = (
        'def f():\n    """F."""\n    def g():\n        """G."""\n        return 1\n    return g\n'
    )
    assert [pair.id for pair in extract_pairs("a.py", text)] == ["a.py::f:1"]


def test_nothing_is_extracted_when_the_file_does_not_parse() -> None:
    assert list(extract_pairs("a.py", "def f(:\n")) == []


def test_every_pair_parses_as_one_function_when_taken_from_the_library() -> None:
    pairs = list(PythonStdlibFunctions(["json", "email", "argparse", "collections"]).samples())
    assert len(pairs) > 100
    for pair in pairs:
        (function,) = ast.parse(pair.prompt + pair.completion).body
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        assert ast.get_docstring(function) is not None
        assert len(function.body) > 1
        assert pair.document == pair.id.split("::")[0]
    assert len({pair.prompt for pair in pairs}) == len({pair.id for pair in pairs}) == len(pairs)
