from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.errors import ConfigurationError, EngineError
from phaseline.objectives import build_objective
from phaseline.objectives.distillation import Distillation
from phaseline.session.layout import AttemptLayout
from phaseline.training.pipeline.document_trial import DocumentTrial, two_documents
from phaseline.training.pipeline.validation import PhaseValidation
from unit.training.phases.phase_runtimes import RuntimeMaker, preferences

WIDTH = 16


def transformers_model(kind: str, vocab_size: int, **changes: Any) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **{**fields, **changes})
    model = AutoModelForCausalLM.from_config(config)
    assert isinstance(model, torch.nn.Module)
    return model


class Attending(torch.nn.Module):
    """One head of causal attention, as somebody would write it who has one document per row."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(vocab_size, WIDTH)
        self.places = torch.nn.Embedding(64, WIDTH)
        self.head = torch.nn.Linear(WIDTH, vocab_size)

    def attend(
        self, input_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.tokens(input_ids) + self.places(positions)
        scores = (hidden @ hidden.transpose(1, 2)).masked_fill(~mask, float("-inf"))
        logits: torch.Tensor = self.head(hidden + scores.softmax(dim=-1) @ hidden)
        return logits

    def causal(self, input_ids: torch.Tensor) -> torch.Tensor:
        time = input_ids.shape[1]
        return torch.ones(time, time, dtype=torch.bool).tril().expand(len(input_ids), -1, -1)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.attend(input_ids, torch.arange(input_ids.shape[1]), self.causal(input_ids))


class Masking(Attending):
    """Keeps documents apart, but counts positions through the row."""

    restarts = False

    def forward(
        self,
        input_ids: torch.Tensor,
        document_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        mask, positions = self.causal(input_ids), torch.arange(input_ids.shape[1])
        if document_ids is not None:
            mask = mask & (document_ids.unsqueeze(2) == document_ids.unsqueeze(1))
        if position_ids is not None and self.restarts:
            positions = position_ids
        return self.attend(input_ids, positions, mask)


class Separating(Masking):
    """Keeps documents apart and begins their positions again."""

    restarts = True


class Backwards(Separating):
    """Keeps documents apart where it is told of several, and looks ahead where it is not."""

    def causal(self, input_ids: torch.Tensor) -> torch.Tensor:
        mask = super().causal(input_ids)
        is_padded = bool((input_ids == input_ids[:, -1:])[:, -4:].all())
        return mask.transpose(1, 2) if is_padded else mask


def rounded(kind: type[Masking], vocab_size: int, noise: float) -> torch.nn.Module:
    """A model that rounds otherwise when it is told of documents, as GPUs' kernels do."""

    class Rounding(kind):  # type: ignore[misc, valid-type]
        def attend(
            self, input_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
        ) -> torch.Tensor:
            logits: torch.Tensor = super().attend(input_ids, positions, mask)
            if not mask[:, -1, 0].any():
                drawn = torch.Generator().manual_seed(0)
                logits = logits + noise * torch.randn(logits.shape, generator=drawn)
            return logits

    return Rounding(vocab_size)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"intermediate_size": WIDTH, "attn_implementation": "eager"}),
        ("llama", {"intermediate_size": WIDTH, "attn_implementation": "sdpa"}),
        ("gpt2", {}),
        ("gemma3_text", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 3}),
    ],
)
def test_trial_accepts_a_transformers_model_that_reads_positions(
    maker: RuntimeMaker, kind: str, changes: dict[str, Any]
) -> None:
    DocumentTrial(maker.make(build=lambda size: transformers_model(kind, size, **changes))).run()


@pytest.mark.parametrize("build", [None, Separating])
def test_trial_accepts_a_model_of_ones_own_that_keeps_documents_apart(
    maker: RuntimeMaker, build: type[torch.nn.Module] | None
) -> None:
    DocumentTrial(maker.make(build=build)).run()


@pytest.mark.parametrize("kind", ["opt", "bloom", "mamba"])
def test_trial_refuses_a_transformers_model_that_sees_the_document_before(
    maker: RuntimeMaker, kind: str
) -> None:
    # Each for another reason: a mask without documents, ALiBi over the row, a running state.
    names = {"mamba": {"state_size": 4}, "opt": {"ffn_dim": WIDTH, "word_embed_proj_dim": WIDTH}}
    trial = DocumentTrial(
        maker.make(build=lambda size: transformers_model(kind, size, **names.get(kind, {})))
    )
    with pytest.raises(ConfigurationError, match=r"does not keep them apart: it lets it see"):
        trial.run()


def test_trial_names_the_settings_when_a_model_of_ones_own_asks_for_nothing(
    maker: RuntimeMaker,
) -> None:
    trial = DocumentTrial(maker.make(build=Attending))
    with pytest.raises(ConfigurationError) as raised:
        trial.run()
    [fault] = raised.value.faults
    assert fault.path == "phases[0].data.packing"
    assert "the model, a Attending, does not keep them apart" in fault.problem
    for words in ("data.separate_documents to false", "data.packing to false", "`document_ids`"):
        assert words in fault.fix


@pytest.mark.parametrize("packing", [True, False])
def test_trial_of_pairs_is_made_without_packing_too(
    maker: RuntimeMaker, tmp_path: Path, packing: bool
) -> None:
    phase = preferences(tmp_path, packing=packing)
    runtime = maker.make(build=Attending, **phase)
    trials = PhaseValidation(runtime, AttemptLayout(1, tmp_path / "attempt"))
    with pytest.raises(ConfigurationError) as raised:
        trials._keep_documents_apart()
    [fault] = raised.value.faults
    assert fault.path == "phases[0].objective"
    assert fault.fix.startswith("Both answers of a pair share a sequence, so take a model that")
    runtime = maker.make(build=Separating, **phase)
    PhaseValidation(runtime, AttemptLayout(1, tmp_path / "attempt"))._keep_documents_apart()


def test_trial_refuses_an_objective_on_pairs_whose_answers_are_not_kept_apart(
    maker: RuntimeMaker, tmp_path: Path
) -> None:
    runtime = maker.make(build=Separating, **preferences(tmp_path, separate_documents=False))
    trials = PhaseValidation(runtime, AttemptLayout(1, tmp_path / "attempt"))
    with pytest.raises(ConfigurationError, match=r"separate_documents is false, but the objective"):
        trials._keep_documents_apart()


def test_trial_refuses_positions_that_do_not_begin_again(maker: RuntimeMaker) -> None:
    trial = DocumentTrial(maker.make(build=Masking))
    with pytest.raises(ConfigurationError, match="its positions do not begin again"):
        trial.run()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trial_takes_rounding_for_what_it_is(maker: RuntimeMaker, precision: str) -> None:
    engine = {"kind": "plain", "precision": precision}
    noise = {"fp32": 1e-3, "bf16": 0.05}[precision]
    DocumentTrial(
        maker.make(build=lambda size: rounded(Separating, size, noise), engine=engine)
    ).run()
    trial = DocumentTrial(
        maker.make(build=lambda size: rounded(Masking, size, noise), engine=engine)
    )
    with pytest.raises(ConfigurationError, match="its positions do not begin again"):
        trial.run()


def test_trial_takes_no_large_difference_for_rounding(maker: RuntimeMaker) -> None:
    trial = DocumentTrial(maker.make(build=lambda size: rounded(Masking, size, 2e-3)))
    with pytest.raises(ConfigurationError, match=r"where 0\.01 is allowed: its positions"):
        trial.run()


def test_trial_says_so_when_losses_are_not_finite(maker: RuntimeMaker) -> None:
    def build(vocab_size: int) -> torch.nn.Module:
        model = Separating(vocab_size)
        torch.nn.init.constant_(model.head.bias, torch.nan)
        return model

    with pytest.raises(EngineError, match=r"phase only: losses of random tokens are not finite"):
        DocumentTrial(maker.make(build=build)).run()


def test_trial_refuses_losses_of_the_first_document_that_are_others(maker: RuntimeMaker) -> None:
    trial = DocumentTrial(maker.make(build=Backwards))
    with pytest.raises(ConfigurationError, match="gives even the first of them other losses"):
        trial.run()


def test_trial_sees_a_leak_in_bf16_that_is_smaller_than_its_rounding(maker: RuntimeMaker) -> None:
    def build(vocab_size: int) -> torch.nn.Module:
        return transformers_model("bloom", vocab_size).bfloat16()

    trial = DocumentTrial(maker.make(build=build))
    with pytest.raises(ConfigurationError, match=r"lets it see the document before it"):
        trial.run()


def test_two_documents_give_the_losses_that_they_have_apart() -> None:
    torch.manual_seed(0)
    objective = build_objective("causal_lm", path="")
    model = Separating(20)
    first, second = torch.randint(20, (3, 6)), torch.randint(20, (3, 9))
    batch = two_documents(first, second)
    assert batch.document_ids is not None
    assert batch.document_ids[0].tolist() == [0] * 5 + [1] * 8
    losses = objective.losses(model, batch).values
    for document, columns in ((first, slice(0, 5)), (second, slice(5, 13))):
        alone = two_documents(document, document[:, :1])
        torch.testing.assert_close(
            losses[:, columns], objective.losses(model, alone).values, rtol=0, atol=1e-5
        )


def test_trial_refuses_a_teacher_that_sees_the_document_before(maker: RuntimeMaker) -> None:
    objective = Distillation("models/large")
    runtime = maker.make(build=Separating, objective=objective)
    vocab_size = runtime.data.tokenizer.vocab_size
    objective.teach_with(transformers_model("bloom", vocab_size).eval())
    DocumentTrial(runtime).run()  # of the model itself, whatever the teacher does
    with pytest.raises(ConfigurationError, match=r"the teacher, a BloomForCausalLM, does not keep"):
        DocumentTrial(runtime, objective.model).run()
