"""Encodes chunks in several processes, and gives them back in the order they came in."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from typing import TYPE_CHECKING

from phaseline.data.encoded_chunk import ChunkEncoder, EncodedChunk
from phaseline.data.encoding_worker import FAILED
from phaseline.errors import DataError, LostWorkerError
from phaseline.session import linux

if TYPE_CHECKING:
    from typing_extensions import Self

    from phaseline.data.cache import Proceed
    from phaseline.data.sources import Sample

# A worker has one chunk at hand and one in reserve; chunks that are done may wait for one
# that takes long, but not without end.
_PER_WORKER = 2
_WAITING_PER_WORKER = 4
# So little is encoded here before a process would have started.
_CHUNKS_ALONE = 4
_PROCEED_EVERY_S = 0.1
_FAREWELL_S = 2.0

Samples = list["Sample"]


def encode_in_order(
    encoder: ChunkEncoder,
    chunks: Iterable[Samples],
    *,
    num_processes: int,
    proceed: Proceed,
) -> Generator[EncodedChunk]:
    """Encodes chunks; what comes out does not depend on the number of processes.

    Args:
        encoder: What they are encoded with.
        chunks: Read here, one by one, as they are needed.
        num_processes: So many encode, besides this one, which reads.
        proceed: Called between pieces of work; what it raises ends all processes.

    Raises:
        DataError: A sample cannot be encoded.
        LostWorkerError: A process was killed.
    """
    chunks = iter(chunks)
    for chunk in islice(chunks, _CHUNKS_ALONE):
        proceed()
        yield encoder.encode(chunk)
    following = next(chunks, None)
    if following is None:
        return
    with _Pool(encoder, num_processes) as pool:
        yield from _encode_together(pool, _with_first(following, chunks), proceed)


def _with_first(first: Samples, others: Iterator[Samples]) -> Iterator[Samples]:
    yield first
    yield from others


def _encode_together(
    pool: _Pool, chunks: Iterator[Samples], proceed: Proceed
) -> Iterator[EncodedChunk]:
    """Keeps the workers busy, and hands on whatever is next in order."""
    done: dict[int, EncodedChunk] = {}
    num_sent = num_given = 0
    following = next(chunks, None)
    while following is not None or num_given < num_sent:
        proceed()
        while following is not None and pool.has_room(num_sent - num_given):
            pool.send(num_sent, following)
            num_sent += 1
            following = next(chunks, None)
        done.update(pool.receive())
        while num_given in done:
            yield done.pop(num_given)
            num_given += 1


class _Worker:
    """One process, and the chunks that it has not given back."""

    def __init__(self, encoder: bytes) -> None:
        ours, theirs = Pipe()
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # As many processes as there are cores need no threads.
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        with theirs, linux.stop_signals_held():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "phaseline.data.encoding_worker", str(theirs.fileno())],
                env=variables,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.line: Connection = ours
        self.at_hand: list[int] = []
        self.send(encoder)

    def send(self, message: bytes) -> None:
        try:
            self.line.send_bytes(message)
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> tuple[int, EncodedChunk]:
        try:
            answer = self.line.recv_bytes()
        except (EOFError, OSError) as error:
            raise self.lost() from error
        if answer.startswith(FAILED):
            raise DataError(answer[len(FAILED) :].decode())
        return self.at_hand.pop(0), EncodedChunk.from_bytes(answer[1:])

    def lost(self) -> LostWorkerError:
        """What to say when it does not answer."""
        code = self.process.wait(_FAREWELL_S)
        how = f"code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return LostWorkerError(
            f"A process that encodes data ended with {how}. After SIGKILL the machine most "
            "likely ran out of memory: set preparation.processes to fewer. Nothing half-done is "
            "kept; the same command begins this source again."
        )


class _Pool:
    def __init__(self, encoder: ChunkEncoder, num_processes: int) -> None:
        self._encoder = pickle.dumps(encoder)
        self._num_processes = num_processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._num_processes):
                self._workers.append(_Worker(self._encoder))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.line.close()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(_FAREWELL_S)
                continue
            worker.process.kill()
            worker.process.wait()

    def has_room(self, num_waiting: int) -> bool:
        """Whether another chunk may be sent, with so many sent and not handed on yet."""
        if num_waiting >= _WAITING_PER_WORKER * len(self._workers):
            return False
        return any(len(worker.at_hand) < _PER_WORKER for worker in self._workers)

    def send(self, idx: int, samples: Samples) -> None:
        """Gives a chunk to the worker with the least to do."""
        worker = min(self._workers, key=lambda one: len(one.at_hand))
        worker.send(pickle.dumps(samples, protocol=5))
        worker.at_hand.append(idx)

    def receive(self) -> Iterator[tuple[int, EncodedChunk]]:
        """What is done by now; waits a moment if nothing is."""
        ready = wait([worker.line for worker in self._workers], _PROCEED_EVERY_S)
        for worker in self._workers:
            if worker.line in ready:
                yield worker.receive()
