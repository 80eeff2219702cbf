"""`python -m phaseline`: the same as the `phaseline` command."""

from __future__ import annotations

from phaseline.cli import main

if __name__ == "__main__":
    main()
