"""What a refused start of a phase advises is done, and seen to be accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.errors import ConfigurationError
from unit.config.session_text import load

_FRESH = ("phases[1].inherit.weights=fresh", "phases[1].inherit.optimizer=keep")
_SGD = ("phases[1].optimizer.name=sgd", "phases[1].inherit.optimizer=keep")
_LORA = "phases[{}].trainable.lora={{rank: {}}}"
_THERE = _LORA.format(0, 2)


@pytest.mark.parametrize(
    ("refused", "advice", "advised"),
    [
        (("phases[1].inherit.at=best",), "phases[0].checkpoint.keep_best, as {metric: loss}, and",
         ("phases[1].inherit.at=best", "phases[0].checkpoint.keep_best={metric: loss}",
          "phases[0].evaluate.every=100 steps")),
        (("phases[0].inherit.at=best",), "Remove it", ()),
        (("phases[0].inherit.optimizer=keep",), "Set it to reset here",
         ("phases[0].inherit.optimizer=reset",)),
        (_FRESH, "Set inherit.optimizer to reset", (_FRESH[0], "phases[1].inherit.optimizer=reset")),
        (_FRESH, "or inherit.weights to previous", ("phases[1].inherit.weights=previous", _FRESH[1])),
        (_SGD, "Set it to reset", (_SGD[0], "phases[1].inherit.optimizer=reset")),
        (_SGD, "or use the same optimizer", (*_SGD, "phases[0].optimizer.name=sgd")),
        ((_THERE, "phases[1].inherit.optimizer=keep"), "keep the same trainable.lora",
         (_THERE, _LORA.format(1, 2), "phases[1].inherit.optimizer=keep")),
        (("phases[1].inherit.lora=merge",), "Remove it", ()),
        ((_THERE, "phases[1].inherit.lora=keep"), "Give the same trainable.lora as there",
         (_THERE, "phases[1].inherit.lora=keep", _LORA.format(1, 2))),
        ((_THERE, "phases[1].inherit.lora=keep"), "or set it to merge",
         (_THERE, "phases[1].inherit.lora=merge")),
        ((_THERE, _LORA.format(1, 3), "phases[1].inherit.lora=keep"), "Make them the same",
         (_THERE, _LORA.format(1, 2), "phases[1].inherit.lora=keep")),
        ((_THERE, _LORA.format(1, 3), "phases[1].inherit.lora=keep"), "or set it to merge",
         (_THERE, _LORA.format(1, 3), "phases[1].inherit.lora=merge")),
        ((_THERE, "phases[0].trainable.freeze=[embed]"), "Remove it", (_THERE,)),
        (("phases[0].inherit.weights=phase:second",), "Remove it", ()),
    ],
)  # fmt: skip
def test_advice_is_accepted_when_it_is_taken(
    tmp_path: Path, refused: tuple[str, ...], advice: str, advised: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError, match="1 fault") as fault:
        load(tmp_path, *refused)
    assert advice in str(fault.value)
    load(tmp_path, *advised)
