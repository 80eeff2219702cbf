"""Processes that read batches ahead. No torch: forked from a process with threads, it may hang.

torch's own loader is not used: its workers end on the first SIGTERM, which a cluster sends to
every process of a job that is to save and stop; they live on over exec; and its shutdown waits.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import signal
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from phaseline.data.batch_arrays import BatchArrays, LabelledArrays
from phaseline.errors import DamagedDataError, DataError, LostWorkerError
from phaseline.session import linux

if TYPE_CHECKING:
    from typing import NoReturn

    from numpy.typing import NDArray


AnyArrays = BatchArrays | LabelledArrays

_NUM_PLANES: Final = 3
"""Fields of a batch that come first and may be large."""
_READY: Final = "ready"
_PATIENCES_S: Final = (5.0, 20.0, 60.0)
"""How long a forked worker is waited for before it is killed and forked once more.

Before 3.12 Python may deadlock in the child of a fork: it waits for the lock on the list of its
threads, which one of torch's can hold at that moment without holding the interpreter's.

**Source:** CPython's issue 112275.
"""


class _Reply(NamedTuple):
    """What a worker says of a batch that it has put into a slot.

    Attributes:
        is_labelled: Whether it is `LabelledArrays`.
        planes: Type and shape of each array in the slot, one after the other; None of one that
            the batch does not have.
        rest: What the batch has besides; it is small.
    """

    is_labelled: bool
    planes: tuple[tuple[str, tuple[int, ...]] | None, ...]
    rest: tuple[Any, ...]


class _Worker:
    """The training process's side of one worker."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self.connection = connection
        self.asked: deque[tuple[int, int]] = deque()

    def ask(self, idx: int, slot: int) -> None:
        # Of one that has died, its missing answer tells.
        with contextlib.suppress(ConnectionError):
            self.connection.send((idx, slot))
        self.asked.append((idx, slot))

    def end(self) -> None:
        """Kills it and waits for its end."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class LoaderWorkers:
    """Batch `idx` is read by worker `idx` modulo their number, some ahead of what is taken.

    Batches come back in memory that is shared with the workers; it is as large as what may be
    ready at once.
    """

    def __init__(
        self,
        read: Callable[[int], AnyArrays],
        *,
        seeds: Sequence[int],
        prefetch: int,
        most_bytes: int,
    ) -> None:
        """Starts nothing yet.

        Args:
            read: Gives the batch of an index. It runs in the workers, and must not use torch.
            seeds: One worker for each, whose generators are seeded with it; 64 bits, unsigned.
            prefetch: Batches that each worker reads ahead.
            most_bytes: What the arrays of the largest batch take.
        """
        self._read = read
        self._seeds = list(seeds)
        self._prefetch = prefetch
        self._workers: list[_Worker] = []
        self._next_idx = 0
        num_slots = len(self._seeds) * prefetch
        memory = mmap.mmap(-1, num_slots * most_bytes)
        self._slots: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(num_slots, -1)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [worker.pid for worker in self._workers]

    def take(self, idx: int) -> AnyArrays:
        """The batch of an index; those that follow are read meanwhile.

        Raises:
            DataError: A worker failed or was killed.
        """
        if not self._workers or idx != self._next_idx:
            self._seek(idx)
        worker = self._workers[idx % len(self._workers)]
        reply, slot = self._receive(worker)
        arrays = self._copy(reply, slot)
        worker.ask(idx + len(self._slots), slot)
        self._next_idx = idx + 1
        return arrays

    def close(self) -> None:
        """Kills the workers and waits for their ends. They hold nothing that could be lost."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _seek(self, idx: int) -> None:
        while len(self._workers) < len(self._seeds):
            self._workers.append(self._start(len(self._workers)))
        for worker in self._workers:
            while worker.asked:
                self._receive(worker)
        for slot in range(len(self._slots)):
            self._workers[(idx + slot) % len(self._workers)].ask(idx + slot, slot)

    def _receive(self, worker: _Worker) -> tuple[_Reply, int]:
        idx, slot = worker.asked[0]
        try:
            reply = worker.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise LostWorkerError(self._why_it_ended(worker)) from error
        if isinstance(reply, DamagedDataError):
            raise reply
        if isinstance(reply, str):
            raise DataError(f"a loader worker could not read micro-batch {idx}:\n{reply}")
        worker.asked.popleft()
        return reply, slot

    def _why_it_ended(self, worker: _Worker) -> str:
        self._workers.remove(worker)
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return (
            f"loader worker {worker.pid} {end}. If the machine ran out of memory, lower "
            "data.num_workers or data.prefetch; the same command goes on from the last checkpoint."
        )

    def _copy(self, reply: _Reply, slot: int) -> AnyArrays:
        arrays: list[NDArray[Any] | None] = []
        start = 0
        for plane in reply.planes:
            if plane is None:
                arrays.append(None)
                continue
            dtype, shape = np.dtype(plane[0]), plane[1]
            end = start + prod(shape) * dtype.itemsize
            arrays.append(self._slots[slot, start:end].copy().view(dtype).reshape(shape))
            start = end
        kind: Any = LabelledArrays if reply.is_labelled else BatchArrays
        made: AnyArrays = kind(*arrays, *reply.rest)
        return made

    def _start(self, worker_idx: int) -> _Worker:
        for patience_s in _PATIENCES_S:
            worker = self._fork(worker_idx)
            try:
                is_up = worker.connection.poll(patience_s)
            except BaseException:
                worker.end()  # nobody else knows of it yet
                raise
            if is_up:
                # Of one that died at once, its missing answer tells.
                with contextlib.suppress(EOFError, ConnectionError):
                    worker.connection.recv()
                return worker
            worker.end()
        waited = ", ".join(f"{patience_s:g}" for patience_s in _PATIENCES_S)
        raise LostWorkerError(
            f"no loader worker started, though each was waited for ({waited} s). Set "
            "data.num_workers to 0; the same command goes on from the last checkpoint."
        )

    def _fork(self, worker_idx: int) -> _Worker:
        ours, theirs = Pipe()
        parent = os.getpid()
        # A signal between the fork and the worker's own settings would run our handlers in it.
        with linux.stop_signals_held(), warnings.catch_warnings():
            # Python warns of forks in processes with threads: locks that these hold stay locked.
            # The worker takes none of theirs: it reads mapped files and writes to its pipe.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if pid == 0:
                self._work(theirs, self._seeds[worker_idx], parent)
        theirs.close()
        return _Worker(pid, ours)

    def _work(self, connection: Connection, seed: int, parent: int) -> NoReturn:
        """All that a worker does. Whatever happens, it never returns into the training's code."""
        try:
            # What is ours must not be finalised here as well: engines, sockets, device memory.
            gc.freeze()
            linux.end_with(parent)
            linux.ignore_stop_signals()
            with contextlib.suppress(EOFError, ConnectionError):
                connection.send(_READY)
                # Peers must see a rank's sockets close when the rank dies.
                linux.close_all_but(connection.fileno())
                random.seed(seed)
                np.random.seed(seed & 0xFFFFFFFF)
                self._serve(connection)
        finally:
            os._exit(0)

    def _serve(self, connection: Connection) -> None:
        while True:
            idx, slot = connection.recv()
            try:
                connection.send(self._fill(slot, self._read(idx)))
            except DamagedDataError as error:
                connection.send(error)
            except Exception:  # noqa: BLE001 - whatever it is, the training process says it
                connection.send(traceback.format_exc())

    def _fill(self, slot: int, arrays: AnyArrays) -> _Reply:
        planes: list[tuple[str, tuple[int, ...]] | None] = []
        start = 0
        for array in arrays[:_NUM_PLANES]:
            if array is None:
                planes.append(None)
                continue
            end = start + array.nbytes
            self._slots[slot, start:end] = array.ravel().view(np.uint8)
            planes.append((array.dtype.str, array.shape))
            start = end
        is_labelled = isinstance(arrays, LabelledArrays)
        return _Reply(is_labelled, tuple(planes), tuple(arrays[_NUM_PLANES:]))
