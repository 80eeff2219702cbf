"""Telling a rank's own failure from the loss of another rank."""

from __future__ import annotations

import re

from phaseline.errors import LostRankError

_LOST_PEER = re.compile(
    r"connection (closed|reset|refused|was likely closed)|broken pipe|connectfullmesh|socket closed|"
    r"timed out waiting|application timeout|remote process exited|nccl.*(abort|timeout)|"
    r"readbytes|writebytes|recvvector|store.*(closed|failed)",
    re.IGNORECASE,
)


def is_consequence(error: BaseException) -> bool:
    """Whether an error says that another rank went, rather than that this one failed.

    Judged by the words in which gloo, NCCL and the store report a peer that is gone.
    """
    if isinstance(error, LostRankError):
        return True
    return isinstance(error, (RuntimeError, ConnectionError)) and bool(
        _LOST_PEER.search(str(error))
    )
