from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.distributed.engines import EngineSettings, build_engine
from phaseline.distributed.world import World
from phaseline.models.skeleton import build_without_memory
from phaseline.training.pipeline.frozen_models import fill_frozen, fingerprint_of, freeze
from unit.training.pipeline.adapter_session import tiny_llama

CPU = torch.device("cpu")
IDS = torch.arange(12).view(2, 6)


def settings(kind: str, precision: str) -> EngineSettings:
    return EngineSettings(
        kind=kind,
        zero_stage=1,
        micro_batch_size=1,
        accumulation_steps=1,
        clip_norm=None,
        precision=precision,
    )


def filled(folder: Path) -> torch.nn.Module:
    """The model of a folder, through a skeleton of another seed."""
    skeleton = build_without_memory(lambda: tiny_llama(seed=9))
    return fill_frozen(find_weights(str(folder)), skeleton, CPU)


def test_filled_model_says_what_the_saved_one_says(tmp_path: Path) -> None:
    saved = tiny_llama()
    saved.save_pretrained(tmp_path)
    model = freeze(filled(tmp_path), settings("plain", "fp32"))
    expected = saved.eval()(input_ids=IDS).logits
    assert torch.equal(model(input_ids=IDS).logits, expected)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    tiny_llama(vocab_size=300).save_pretrained(tmp_path)
    with pytest.raises(UnusableWeightsError, match=r"does not fit the model: .*embed_tokens"):
        filled(tmp_path)


def test_frozen_model_has_no_gradient_and_stays_in_evaluation_mode() -> None:
    module = tiny_llama()
    model = freeze(module.train(), settings("plain", "fp32"))
    model.train()
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(input_ids=IDS).logits.requires_grad


def test_plain_engine_in_bf16_and_its_frozen_copy_say_the_same(world: World) -> None:
    student = tiny_llama()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    engine = build_engine(student, optimizer, settings("plain", "bf16"), world)
    frozen = freeze(tiny_llama(), settings("plain", "bf16"))
    engine.model.eval()
    said = engine.model(input_ids=IDS, use_cache=False).logits
    assert torch.equal(frozen(input_ids=IDS, use_cache=False).logits.float(), said.float())
    exact = freeze(tiny_llama(), settings("plain", "fp32"))(input_ids=IDS).logits
    assert not torch.equal(exact, said)


def test_frozen_model_beside_deepspeed_has_weights_in_the_precision_of_its_forward() -> None:
    model = freeze(tiny_llama(), settings("deepspeed", "bf16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16


def test_fingerprint_is_of_the_values_and_not_of_the_files(tmp_path: Path) -> None:
    saved = tiny_llama()
    saved.save_pretrained(tmp_path / "one")
    saved.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = fingerprint_of(filled(tmp_path / "one")), fingerprint_of(filled(tmp_path / "many"))
    assert one == many == fingerprint_of(saved)
    with torch.no_grad():
        saved.model.norm.weight[3] += 1e-6
    assert fingerprint_of(saved) != one
