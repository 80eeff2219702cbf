from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from phaseline.checkpoint.store import SavedReport
from phaseline.training.phases.callbacks import Callback, CallbackList
from phaseline.training.phases.runtime import PhaseRuntime
from unit.checkpoint.live_engines import at

REPORT = SavedReport(
    folder=Path("a"), position=at(1), duration_s=1.0, stall_s=0.1, stall_frac=0.01, size_bytes=1
)
MOMENTS = {
    "phase_started": ((), {}),
    "step_began": ((), {}),
    "step_ended": ((), {}),
    "validation_ended": (({"loss": 1.0},), {}),
    "checkpoint_saved": (
        (REPORT,),
        {"final": True},
    ),
    "phase_ended": ((), {"finished": False}),
}


def test_list_passes_every_moment_on_in_order_with_what_belongs_to_it() -> None:
    told: list[tuple[Any, ...]] = []

    def member(name: str) -> Callback:
        def overridden(moment: str) -> Any:
            return lambda *args, **kwargs: told.append((name, moment, args, kwargs))

        callback = Callback()
        for moment in MOMENTS:
            setattr(callback, moment, overridden(moment))
        return callback

    runtime = cast(PhaseRuntime, object())
    callbacks = CallbackList([member("first"), member("second")])
    for moment, (args, kwargs) in MOMENTS.items():
        getattr(callbacks, moment)(runtime, *args, **kwargs)
    assert told == [
        (name, moment, (runtime, *args), kwargs)
        for moment, (args, kwargs) in MOMENTS.items()
        for name in ("first", "second")
    ]


def test_every_moment_of_a_callback_is_in_the_list() -> None:
    moments = {name for name in vars(Callback) if not name.startswith("_")}
    assert moments == set(MOMENTS)
    assert moments <= set(vars(CallbackList))


def test_callback_does_nothing_unless_it_is_told_what() -> None:
    runtime = cast(PhaseRuntime, object())
    for moment, (args, kwargs) in MOMENTS.items():
        assert getattr(Callback(), moment)(runtime, *args, **kwargs) is None
