"""A process that encodes chunks for the one that started it, until that closes the line.

It is a program of its own, not a fork: the tokenizers library runs threads, which a fork would
tear, and what `multiprocessing` starts runs the user's main program again.
"""

from __future__ import annotations

import pickle
import sys
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue

from phaseline.data.encoded_chunk import ChunkEncoder
from phaseline.errors import PhaselineError
from phaseline.session import linux

DONE, FAILED = b"+", b"-"
"""How an answer begins: an encoded chunk follows, or a message."""


def main(descriptor: int) -> None:
    """Serves the process at the other end of a socket.

    Args:
        descriptor: Of the socket. The first message is a `ChunkEncoder`, the others are lists
            of samples; each is answered.
    """
    linux.die_with_parent()
    line = Connection(descriptor)
    received: SimpleQueue[bytes | None] = SimpleQueue()
    # Reads while this one works: if both ends waited to be read, neither would go on.
    threading.Thread(target=_receive, args=(line, received), daemon=True).start()
    encoder: ChunkEncoder | None = None
    while (message := received.get()) is not None:
        content = pickle.loads(message)  # noqa: S301 - from the process that started this one
        if encoder is None:
            encoder = content
            continue
        try:
            line.send_bytes(_answer(encoder, content))
        except OSError:
            return  # nobody is left to work for


def _receive(line: Connection, received: SimpleQueue[bytes | None]) -> None:
    try:
        while True:
            received.put(line.recv_bytes())
    except (EOFError, OSError):
        received.put(None)


def _answer(encoder: ChunkEncoder, samples: list[object]) -> bytes:
    try:
        return DONE + encoder.encode(samples).to_bytes()  # type: ignore[arg-type]  # unpickled
    except PhaselineError as error:
        return FAILED + str(error).encode()
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
        return FAILED + f"encoding failed with {type(error).__name__}: {error}".encode()


if __name__ == "__main__":
    main(int(sys.argv[1]))
