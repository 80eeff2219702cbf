"""One save in a thread of its own. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread


class BackgroundSave:
    """Writes, then tidies up, after the save before it has done both.

    The thread's findings are read by the training thread once it has ended.
    """

    def __init__(
        self,
        name: str,
        *,
        write: Callable[[], int],
        release: Callable[[], None],
        tidy: Callable[[], None],
        previous: BackgroundSave | None,
        began: float,
    ) -> None:
        """Starts the thread.

        Args:
            name: Of the thread.
            write: Publishes, and returns the size in bytes.
            release: Gives back what `write` needed, however it ended.
            tidy: What is to do once something newer is published.
            previous: The save before it, if that may still run.
            began: When the copy began that is written, by the monotonic clock, seconds.
        """
        self.duration_s = 0.0
        self.stall_s = 0.0
        self.problem: str | None = None
        self._write = write
        self._release = release
        self._tidy = tidy
        self._previous = previous
        self._began = began
        self._size_bytes = 0
        self._error: Exception | None = None
        self._is_released = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_released(self) -> bool:
        """Whether what the save needed in memory is free."""
        return self._is_released.is_set()

    @property
    def is_done(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def wait_for_release(self) -> None:
        """Waits until what the save needed in memory is free."""
        self._is_released.wait()

    def join(self) -> None:
        """Waits for the thread."""
        self._thread.join()

    def result(self) -> int:
        """The size in bytes, or raises what kept it from being published."""
        if self._error is not None:
            raise self._error
        return self._size_bytes

    def _run(self) -> None:
        if self._previous is not None:
            self._previous.join()
            self._previous = None
        try:
            self._size_bytes = self._write()
        except Exception as error:  # noqa: BLE001 - raised where the training thread looks for it
            self._error = error
        self.duration_s = time.monotonic() - self._began
        self._release()
        self._is_released.set()
        if self._error is None:
            try:
                self._tidy()
            except Exception as error:  # noqa: BLE001 - what is published stays published
                self.problem = f"older checkpoints could not be removed: {error}"
