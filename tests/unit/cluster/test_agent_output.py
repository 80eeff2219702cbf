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


def read(text: str) -> AgentOutput:
    output = AgentOutput()
    output.read(io.BytesIO(text.encode()))
    return output


def test_words_of_an_agent_that_fails_by_itself_are_its_own_trouble() -> None:
    text = "a line\nrank : of something else\nno end"
    output = read(text)
    assert output.own_trouble == text
    assert output.first_death is None


def test_killed_rank_is_found_and_those_that_the_agent_ended_are_not() -> None:
    output = read(BOX)
    assert output.own_trouble == ""
    assert output.text == BOX
    [death] = output.deaths
    assert death.rank == 2
    assert death.message.startswith("killed by SIGKILL")


def test_rank_that_ended_by_itself_is_told_with_its_exit_code() -> None:
    output = read(BOX.replace("exitcode  : -9 ", "exitcode  : 7 "))
    assert output.first_death == Death(2, "ended with exit code 7", is_killed=False)
    assert output.own_trouble == ""


def test_killed_rank_comes_before_those_that_ended_by_themselves() -> None:
    box = BOX.replace("exitcode  : -15", "exitcode  : -11").replace(
        "exitcode  : -9 ", "exitcode  : 1 "
    )
    death = read(box).first_death
    assert death is not None
    assert (death.rank, death.is_killed) == (3, True)
