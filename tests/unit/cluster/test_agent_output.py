from __future__ import annotations

import io

from phaseline.cluster.agent_output import AgentOutput, Death

# As torch 2.13 prints it; the first failure stands at the end.
BOX = """\
============================================================
/site-packages/accelerate FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-26_03:02:07
  host      : node2
  rank      : 3 (local_rank: 1)
  exitcode  : -15 (pid: 71)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 71
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_03:02:06
  host      : node2
  rank      : 2 (local_rank: 0)
  exitcode  : -9 (pid: 70)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 70
============================================================
"""


def read(text: str) -> tuple[str, list[Death]]:
    out = io.StringIO()
    output = AgentOutput(out)
    output.read(io.BytesIO(text.encode()))
    return out.getvalue(), output.deaths


def test_output_is_passed_on_unchanged() -> None:
    text = "a line\nrank : of something else\nno end"
    assert read(text) == (text, [])


def test_killed_rank_is_found_and_those_that_the_agent_ended_are_not() -> None:
    text, [death] = read(BOX)
    assert text == BOX
    assert death.rank == 2
    assert death.message.startswith("killed by SIGKILL")


def test_rank_that_failed_by_itself_is_left_to_its_own_record() -> None:
    assert read(BOX.replace("exitcode  : -9 ", "exitcode  : 1 "))[1] == []
