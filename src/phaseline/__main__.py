"""`python -m phaseline`: the same as the `phaseline` command."""

from __future__ import annotations

import sys

from phaseline.session import linux

if __name__ == "__main__":
    # A stop signal would end a rank that does not listen yet. Blocked, it waits until `run`
    # does; all that could still be missed is the interpreter's own start.
    if sys.argv[1:2] == ["run"]:
        linux.block_stop_signals()
    from phaseline.cli import main

    main()
