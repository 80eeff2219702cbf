"""Hearing that some rank was asked to stop, where no vote can be held."""

from __future__ import annotations

import time

from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import StopRequestedError
from phaseline.resilience.stop_flag import StopFlag

_KEY = "stop"
_ASK_EVERY_S = 0.5


class StopNotice:
    """Passes a request on through the store. Ranks hear of it at different moments.

    So it may only cut short what is thrown away; what is kept is decided by a vote. It calls
    no collective: it serves before there is a process group, and where ranks are out of step.
    """

    def __init__(self, flag: StopFlag, rendezvous: Rendezvous) -> None:
        """Nothing is asked or said yet.

        Args:
            flag: This rank's flag.
            rendezvous: The store that the ranks meet at.
        """
        self._flag = flag
        self._rendezvous = rendezvous
        self._is_heard = False
        self._next_s = 0.0

    def heard(self) -> bool:
        """Whether some rank was asked, as far as this one knows. **Ranks:** any.

        The store is asked at most twice a second, so it may be called as often as one likes.
        """
        if self._is_heard:
            return True
        if self._flag.is_set:
            self._rendezvous.publish(_KEY, True)
            self._is_heard = True
        elif time.monotonic() >= self._next_s:
            self._is_heard = self._rendezvous.is_published(_KEY)
            self._next_s = time.monotonic() + _ASK_EVERY_S
        return self._is_heard

    def require_none(self) -> None:
        """Gives work up by an exception once a request was heard. **Ranks:** any.

        Raises:
            StopRequestedError: Some rank was asked to stop.
        """
        if self.heard():
            raise StopRequestedError("A stop was asked for, so this work was given up.")
