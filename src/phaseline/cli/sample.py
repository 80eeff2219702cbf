"""`phaseline sample`: text from any checkpoint of a session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phaseline.cli.options import (
    BestOfPhase,
    PhaseName,
    PhaseStep,
    TrustCode,
    require_one_choice,
)
from phaseline.cli.showing import show, warn
from phaseline.cli.trust import code_of_session
from phaseline.config.bounds import MAX_INTEGER, SMALLEST
from phaseline.errors import UsageError

if TYPE_CHECKING:
    from phaseline.training.pipeline.talking import Talk


def sample(
    directory: Annotated[Path, typer.Argument(help="The session directory.")],
    prompt: Annotated[
        str | None, typer.Option(help="Text to continue. Without it, on a terminal: a dialogue.")
    ] = None,
    phase: PhaseName = None,
    step: PhaseStep = None,
    best: BestOfPhase = False,
    trust_code: TrustCode = False,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Whether a text is a turn of a dialogue, or is continued. Default: a dialogue if "
            "the phase, or one before it, was trained on chats.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=10**6, help="Tokens to write, at most.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=1000.0, help="0 takes the most likely token each time.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_INTEGER, help="Of what is drawn with a temperature.")
    ] = 0,
) -> None:
    """Let a trained phase write: continue one text, or talk with it in the terminal.

    What was trained on chats takes the prompt as a user's turn and remembers the dialogue; else
    every text is continued by itself. The same seed writes the same.
    """
    require_one_choice(step, best=best)
    if not (temperature == 0 or temperature >= SMALLEST):
        raise UsageError(
            f"--temperature is {temperature}; other than 0 it must be at least {SMALLEST:g}."
        )
    if prompt is None and not sys.stdin.isatty():
        raise UsageError("Nothing to continue: give --prompt TEXT, or start it on a terminal.")
    # Not above: torch and transformers take seconds, and the help needs neither.
    from phaseline.training.pipeline.talking import Talk
    from phaseline.training.pipeline.trained_phase import TrainedPhase

    with code_of_session(directory, is_trusted=trust_code):
        trained = TrainedPhase.find(directory, phase, step=step, best=best, say=warn)
        talk = Talk(
            trained,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            is_chat=chat,
        )
    if talk.shortened:
        show(talk.shortened, err=True)
    if prompt is not None:
        show(talk.answer(prompt))
        return
    _converse(talk)


def _converse(talk: Talk) -> None:
    show(f"{talk.title}. An empty line ends it.", err=True)
    while True:
        try:
            text = input("> ")
            text.encode()  # a terminal may hand over any bytes
        except (EOFError, KeyboardInterrupt):
            break
        except UnicodeError:
            show("That is no text in UTF-8. Write it again.", err=True)
            continue
        if not text.strip():
            break
        show(talk.answer(text))
