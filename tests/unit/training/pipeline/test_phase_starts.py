"""What phases start from: pretrained weights, other phases, adapters kept, merged and dropped."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from phaseline.checkpoint.manifest import list_kept
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.errors import ConfigurationError, ExitCode, SessionChangedError
from unit.training.pipeline.adapter_session import (
    OLD_VOCABULARY,
    TEXT,
    VOCABULARY,
    Place,
    tiny_llama,
)

pytestmark = pytest.mark.extended("sessions of several phases for each way to begin one")

Q = "model.layers.0.self_attn.q_proj"
EMBED = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Still:
    """The same session, with rates that leave in every checkpoint what its phase began with."""

    place: Place
    output: str

    def weights(self, phase: str) -> dict[str, torch.Tensor]:
        return self.place.weights(phase, "still")


@pytest.fixture(scope="module")
def still(trained_place: Place) -> Still:
    rates = [f"phases[{name}].optimizer.lr=1e-30" for name in ("full", "more", "dropped")]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stderr(output):
        trained_place.enter(monkeypatch)
        trained_place.run("still", *rates, stop_at=16)
    return Still(trained_place, output.getvalue())


def delta(weights: dict[str, torch.Tensor], module: str, scale: float) -> torch.Tensor:
    """What an adapter adds to its layer's weight, in the plainest way."""
    a, b = (weights[f"{module}.lora_{which}.default.weight"].double() for which in "AB")
    return scale * (b @ a)


def test_first_phase_starts_from_the_pretrained_weights_with_grown_embeddings(
    still: Still,
) -> None:
    [taken] = [e for e in still.place.events("weights_taken", "still") if e["phase"] == "full"]
    assert taken["kind"] == "Hugging Face folder"
    found, base = still.weights("full"), tiny_llama().state_dict()
    assert torch.equal(found[Q + ".weight"], base[Q + ".weight"])
    rows = found[EMBED]
    assert rows.shape == (VOCABULARY, 16)
    assert torch.equal(rows[:OLD_VOCABULARY], base[EMBED])
    mean = base[EMBED].double().mean(0).float()
    torch.testing.assert_close(
        rows[OLD_VOCABULARY:], mean.expand(VOCABULARY - OLD_VOCABULARY, -1), rtol=0, atol=1e-8
    )
    assert torch.equal(found["lm_head.weight"], rows)


def test_start_of_a_session_tells_what_every_phase_starts_from(still: Still) -> None:
    assert "full starts from the weights of base, and the optimizer begins anew." in still.output
    assert "with their LoRA merged into them, and the optimizer begins anew." in still.output
    assert "embeddings grown from 250 to 259 rows; the new ones are the mean" in still.output
    assert still.output.count("weights taken from") == 1  # of its own phases the sentence tells


def test_adapters_leave_the_model_itself_as_it_was(adapters: Place) -> None:
    full, lora = adapters.weights("full"), adapters.weights("lora")
    assert torch.equal(lora[f"{Q}.base_layer.weight"], full[f"{Q}.weight"])
    assert torch.equal(lora[EMBED], full[EMBED])
    adapted = {name.split(".lora_")[0] for name in lora if ".lora_A." in name}
    layers = [f"model.layers.{idx}" for idx in (0, 1)]
    assert adapted == {
        f"{layer}.{end}" for layer in layers for end in ("self_attn.q_proj", "mlp.down_proj")
    }
    assert lora[f"{Q}.lora_B.default.weight"].abs().max() > 0


def test_kept_adapters_go_on_where_they_were_with_the_state_of_the_optimizer(
    adapters: Place, still: Still
) -> None:
    name = f"{Q}.lora_A.default.weight"
    assert torch.equal(still.weights("more")[name], still.weights("lora")[name])
    assert adam_steps(adapters, "more") == {6.0}  # three of `lora` before
    assert adam_steps(adapters, "merged") == {3.0}


def test_optimizer_state_of_a_phase_long_before_is_there_when_it_is_wanted(
    adapters: Place,
) -> None:
    assert adam_steps(adapters, "longer") == {6.0}  # three of `full` before


def adam_steps(place: Place, phase: str) -> set[float]:
    """How many updates the optimizer counted, by what is kept of the phase."""
    with CheckpointReader(list_kept(place.layout().phase(phase))[-1]) as reader:
        return {
            reader.scalars(name)["step"][0] for name in reader.parameters if reader.scalars(name)
        }


def test_merged_adapters_are_added_to_the_weights_and_the_rest_stays(adapters: Place) -> None:
    more, merged = adapters.weights("more"), adapters.weights("merged")
    assert not any(".lora_" in name or "base_layer" in name for name in merged)
    expected = (more[f"{Q}.base_layer.weight"].double() + delta(more, Q, 16 / 2)).float()
    assert torch.equal(merged[f"{Q}.weight"], expected)  # frozen since: `proj`
    assert torch.equal(merged[EMBED], more[EMBED])
    k_proj = "model.layers.0.self_attn.k_proj.weight"
    assert not torch.equal(merged[k_proj], more[k_proj])  # trained although `proj` is frozen


def test_best_weights_of_another_phase_are_those_of_its_best_validation(adapters: Place) -> None:
    # By the largest loss, which is that of the first step.
    [taken] = [e for e in adapters.events("weights_taken") if e["phase"] == "again"]
    assert taken["kind"] == "checkpoint of full at step 1"
    again, best = adapters.weights("again"), adapters.weights("full", idx=0)
    assert torch.equal(again[EMBED], best[EMBED])
    norm = "model.layers.{}.input_layernorm.weight"
    assert not torch.equal(again[norm.format(0)], best[norm.format(0)])
    assert torch.equal(again[norm.format(1)], best[norm.format(1)])


def test_dropped_adapters_leave_the_weights_that_they_were_beside(still: Still) -> None:
    found, lora = still.weights("dropped"), still.weights("lora")
    assert torch.equal(found[f"{Q}.weight"], lora[f"{Q}.base_layer.weight"])


def test_session_with_adapters_ends_with_the_same_bits_when_it_was_stopped_and_resumed(
    adapters: Place,
) -> None:
    for step in (4, 8, 14):  # within lora, within more, within again
        assert adapters.run("parts", stop_at=step).code is ExitCode.STOPPED
    assert adapters.run("parts").code is ExitCode.FINISHED
    for phase in ("lora", "more", "merged", "again", "dropped"):
        whole, parts = adapters.weights(phase), adapters.weights(phase, "parts")
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_change_of_rank_is_refused_while_the_phase_is_under_way(adapters: Place) -> None:
    adapters.run("rank", stop_at=4)
    with pytest.raises(SessionChangedError, match=r"lora\.rank was 2 and is now 4.*another state"):
        adapters.run(
            "rank", *(f"phases[{name}].trainable.lora.rank=4" for name in ("lora", "more"))
        )


def test_optimizer_state_is_refused_when_more_is_trained_than_before(adapters: Place) -> None:
    thawed = "phases[more].trainable.train=[norm]"
    with pytest.raises(
        ConfigurationError, match=r"is 'previous', which was trained without .*norm"
    ):
        adapters.run("thawed", thawed)


def test_smaller_vocabulary_than_the_weights_is_refused(
    adapters: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("large")
    tiny_llama(vocab_size=300).save_pretrained(folder)
    with pytest.raises(ConfigurationError, match=r"vocab_size 300, but model\.pretrained says 250"):
        adapters.run("large", f"phases[full].inherit.weights={folder}")


def test_optimizer_state_is_refused_when_the_checkpoint_was_reduced_to_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.make(tmp_path)
    place.enter(monkeypatch)
    file = tmp_path / "session.yaml"
    head, rest = TEXT.split("  - {name: lora", 1)
    tail = rest[rest.index("tracking:") : rest.index("export:")]
    second = "  - {name: second}\n"
    file.write_text(head + second + tail)
    assert place.run("late").code is ExitCode.FINISHED
    third = '  - {name: third, inherit: {weights: "phase:full", optimizer: keep}}\n'
    file.write_text(head + second + third + tail)
    with pytest.raises(
        ConfigurationError, match=r"is 'phase:full', which was reduced to its weigh"
    ):
        place.run("late")
