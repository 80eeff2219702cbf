"""Whether generated Python is a function that parses."""

from __future__ import annotations

import ast


def first_function_parses(prompt: str, completion: str, *, complete: bool) -> bool:
    """Whether the function that the prompt begins is whole and accepted by `ast.parse`.

    What the model wrote must have a part in it.

    Args:
        prompt: Begins with `def`, at the left margin.
        completion: What was generated after it.
        complete: Whether the generation ended by itself; if not, its last line may be cut
            in the middle and is left out.
    """
    lines = (prompt + completion).split("\n")
    if not complete and len(lines) > 1:
        lines = lines[:-1]
    body_start = next((i for i, line in enumerate(lines) if line.startswith("def ")), None)
    if body_start is None:
        return False
    function = [lines[body_start]]
    for line in lines[body_start + 1 :]:
        # The next statement at the margin ends the function; a closing bracket of the
        # signature or a closing quote does not.
        if line and not line[0].isspace() and line[0] not in ")]}\"'#":
            break
        function.append(line)
    if not "\n".join(lines[:body_start] + function)[len(prompt) :].strip():
        return False  # a prompt with a docstring parses by itself
    try:
        parsed = ast.parse("\n".join(function))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(parsed.body) and isinstance(parsed.body[0], ast.FunctionDef)
