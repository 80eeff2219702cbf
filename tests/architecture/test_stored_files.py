"""What lies in a session, a checkpoint or the cache is read through one checked reader."""

from __future__ import annotations

import ast
import subprocess
import sys

from architecture.source_tree import PACKAGE, ROOT, package_files, parse

ROOMS = ("session", "checkpoint", "data", "tracking")
OTHERS_FILES = {
    "session/stored.py": "the reader itself",
    "session/records.py": "lines, each checked",
    "checkpoint/tensor_files.py": "headers of other people's tensors, refused in words of their own",
    "checkpoint/foreign.py": "the config.json of a model's folder",
    "data/token_lengths.py": "what a tokenizer says of itself, from memory",
    "data/sealed_vocabulary.py": "what a tokenizer says of itself, from memory",
    "data/tokenizer.py": "settings of a pretrained tokenizer's folder",
    "data/sources/formats/json_text.py": "data of users",
    "data/encoded_chunk.py": "what another process of the preparation hands over",
}


def test_json_is_parsed_nowhere_else() -> None:
    found = set()
    for path in package_files():
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] not in ROOMS:
            continue
        for node in ast.walk(parse(path)):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("load", "loads")
                and isinstance(node.value, ast.Name)
                and node.value.id in ("json", "orjson")
            ):
                found.add(name)
    assert found == OTHERS_FILES.keys()


def test_nothing_of_the_compiler_is_imported_with_the_pipeline() -> None:
    code = (
        "import sys, phaseline.training_pipeline; "
        "print([name for name in ('torch._dynamo', 'transformers', 'deepspeed', 'accelerate') "
        "if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"
