from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import psutil
import pytest

from phaseline.data.cache import always_proceed
from phaseline.data.encoded_chunk import ChunkEncoder, EncodedChunk, in_chunks
from phaseline.data.encoding_pool import encode_in_order
from phaseline.data.sources import Chat, Document, Pair, Preference, Sample, TokenDocument
from phaseline.data.split import SplitRule
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DataError, LostWorkerError, StopRequestedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BYTES = Tokenizer.of_bytes()
ENCODER = ChunkEncoder("made up", BYTES, "answers", SplitRule(1, 0.3))

# Encodes without an end, after saying so.
_ENDLESS = """
import sys
from phaseline.data.encoded_chunk import ChunkEncoder
from phaseline.data.encoding_pool import encode_in_order
from phaseline.data.sources import Document
from phaseline.data.split import SplitRule
from phaseline.data.tokenizer import Tokenizer

def chunks():
    idx = 0
    while True:
        yield [Document(str(idx), "text" * 1000)]
        idx += 1

encoder = ChunkEncoder("endless", Tokenizer.of_bytes(), "answers", SplitRule(1, 0.3))
for idx, _ in enumerate(encode_in_order(encoder, chunks(), num_processes=2, proceed=lambda: None)):
    if idx == 20:
        print("at work", flush=True)
"""


def _chunks(num_chunks: int) -> Iterator[list[Sample]]:
    # The first of every few takes much longer, so that they are not done in their order.
    for idx in range(num_chunks):
        length = 2_000 if idx % 5 == 0 else 10
        yield [Document(f"{idx} {part}", f"text {idx} " * length) for part in range(3)]


def _encode(num_chunks: int, num_processes: int) -> list[bytes]:
    chunks = encode_in_order(
        ENCODER, _chunks(num_chunks), num_processes=num_processes, proceed=always_proceed
    )
    return [chunk.to_bytes() for chunk in chunks]


def _children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "phaseline.data.encoding_worker" in child.cmdline()
    ]


def test_pool_gives_the_same_in_the_same_order_whatever_the_number_of_processes() -> None:
    alone = [ENCODER.encode(chunk).to_bytes() for chunk in _chunks(30)]
    assert _encode(30, 1) == _encode(30, 3) == alone


def test_pool_starts_no_process_when_there_is_little_to_do() -> None:
    for _ in encode_in_order(ENCODER, _chunks(4), num_processes=2, proceed=always_proceed):
        assert _children() == []


@pytest.mark.parametrize("num_before", [1, 7])
def test_pool_names_the_sample_when_one_cannot_be_encoded(num_before: int) -> None:
    def chunks() -> Iterator[list[Sample]]:
        yield from _chunks(num_before)
        yield [Document("good", "text"), Document("bad", 7), Document("other", "x")]  # type: ignore[arg-type]
        yield from _chunks(3)

    with pytest.raises(DataError, match="sample 'bad' of made up cannot be encoded: TypeError"):
        for _ in encode_in_order(ENCODER, chunks(), num_processes=2, proceed=always_proceed):
            pass
    assert _children() == []


def test_pool_ends_its_processes_when_it_is_given_up() -> None:
    calls = 0

    def proceed() -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            assert len(_children()) == 2
            raise StopRequestedError("given up")

    with pytest.raises(StopRequestedError, match="given up"):
        for _ in encode_in_order(ENCODER, _chunks(40), num_processes=2, proceed=proceed):
            pass
    assert _children() == []


def test_pool_ends_its_processes_when_nobody_takes_more() -> None:
    with closing(
        encode_in_order(ENCODER, _chunks(40), num_processes=2, proceed=always_proceed)
    ) as chunks:
        for _ in range(6):
            next(chunks)
        assert len(_children()) == 2
    assert _children() == []


def test_pool_says_so_when_a_process_is_killed() -> None:
    chunks = encode_in_order(ENCODER, _chunks(60), num_processes=2, proceed=always_proceed)
    for _ in range(8):
        next(chunks)
    _children()[0].kill()
    with pytest.raises(LostWorkerError, match=r"ended with signal SIGKILL.*preparation.processes"):
        list(chunks)
    assert _children() == []


def test_pool_keeps_stop_signals_from_its_processes() -> None:
    chunks = encode_in_order(ENCODER, _chunks(40), num_processes=2, proceed=always_proceed)
    encoded = [next(chunks).to_bytes() for _ in range(6)]
    for child in _children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            child.send_signal(number)
    encoded += [chunk.to_bytes() for chunk in chunks]
    assert encoded == [ENCODER.encode(chunk).to_bytes() for chunk in _chunks(40)]


def test_processes_die_when_the_one_that_started_them_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "at work"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert len(gone) == 2


def test_pool_runs_nothing_of_the_users_main_program(tmp_path: Path) -> None:
    # As in a program that calls TrainingPipeline without `if __name__ == "__main__"`.
    program = tmp_path / "program.py"
    program.write_text("print('once', flush=True)\n" + _ENDLESS.replace("print(", "sys.exit("))
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert answer.stdout == "once\n"


def test_chunk_is_the_same_when_written_and_read() -> None:
    samples: list[Sample] = [Pair("a", "ask", "say"), Pair("b", "", ""), Pair("c", "é", "數")]
    chunk = ENCODER.encode(samples)
    again = EncodedChunk.from_bytes(chunk.to_bytes())
    assert again == chunk
    assert chunk.dropped == {"empty completion": 1}
    assert len(chunk.ids) == 24


def test_chunks_are_cut_by_size_and_by_number() -> None:
    small: list[Sample] = [Document(str(idx), "x") for idx in range(2500)]
    assert [len(chunk) for chunk in in_chunks(small)] == [1024, 1024, 452]
    turns = [{"role": "user", "content": "x" * 200_000}]
    large: list[Sample] = [
        Document("a", "x" * 300_000),
        Pair("b", "x" * 200_000, "x" * 100_000),
        Chat("c", turns),
        Preference("d", turns, "x" * 50_000, "x" * 50_000),
        TokenDocument("e", BYTES.special_ids),
    ]
    assert [len(chunk) for chunk in in_chunks(large)] == [1, 1, 2, 1]
