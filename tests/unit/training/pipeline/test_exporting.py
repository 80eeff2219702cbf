"""Exports of a session with adapters, held against the model that was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_kept
from phaseline.cli import main
from phaseline.errors import ExitCode
from phaseline.training.pipeline import exporting
from phaseline.training.pipeline.exporting import ExportForm, export_phase
from phaseline.training.pipeline.trained_phase import TrainedPhase
from unit.training.pipeline.adapter_session import VOCABULARY, Place, tiny_llama

IDS = torch.arange(0, 250, 16).view(1, -1)


def export(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(["export", "whole", *map(str, words)])
    return int(end.value.code or 0)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(input_ids=IDS).logits.float()
    return found


def trained_model(place: Place, phase: str) -> Any:
    """The model as it was trained, adapters beside its layers, built by hand."""
    from peft import LoraConfig, inject_adapter_in_model

    module = tiny_llama(vocab_size=VOCABULARY)
    weights = place.weights(phase)
    ranks = {name: t.shape[0] for name, t in weights.items() if ".lora_A." in name}
    if ranks:
        targets = [name.split(".lora_A.")[0] for name in ranks]
        config = LoraConfig(r=next(iter(ranks.values())), lora_alpha=16, target_modules=targets)
        inject_adapter_in_model(config, module)
    module.load_state_dict(weights)
    return module.eval()


@pytest.mark.parametrize("phase", ["full", "more", "again"])
def test_export_gives_the_logits_of_the_model_that_was_trained(
    adapters: Place, tmp_path: Path, phase: str
) -> None:
    folder = tmp_path / phase
    assert export("--phase", phase, "--to", folder, "--max-shard-size", "8KB") == 0
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    exported = load(folder)
    expected = logits(trained_model(adapters, phase))
    torch.testing.assert_close(logits(exported), expected, atol=1e-5, rtol=0)
    assert exported.lm_head.weight is exported.model.embed_tokens.weight
    assert exported.config.vocab_size == VOCABULARY
    assert exported.generation_config.eos_token_id == 256


def test_export_has_the_tokenizer_of_the_session(adapters: Place, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert export("--to", tmp_path / "new") == 0
    assert (tmp_path / "new" / "README.md").read_text().splitlines()[5] == "# adapters: longer"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert tokenizer("ab").input_ids == [97, 98]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (256, 257)


def test_export_in_bf16_is_rounded_and_says_so(adapters: Place) -> None:
    from safetensors.torch import load_file

    folder = adapters.layout().exports_dir / "merged"  # as the session file asks for
    stored = load_file(folder / "model.safetensors")
    weights = adapters.weights("merged")
    assert all(torch.equal(t, weights[name].bfloat16()) for name, t in stored.items())
    assert "lm_head.weight" not in stored
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_adapters_alone_are_what_peft_puts_onto_their_model(
    adapters: Place, tmp_path: Path
) -> None:
    from peft import PeftModel

    folder = tmp_path / "adapter"
    assert export("--phase", "more", "--to", folder, "--lora", "adapter") == 0
    base = tiny_llama(vocab_size=VOCABULARY)
    base.load_state_dict(adapters.weights("full"))
    joined = PeftModel.from_pretrained(base, str(folder)).eval()
    expected = logits(trained_model(adapters, "more"))
    torch.testing.assert_close(logits(joined), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, logits(trained_model(adapters, "full")), atol=1e-3)
    assert (adapters.layout().exports_dir / "more" / "adapter_model.safetensors").is_file()


def test_export_takes_the_step_or_the_best_that_is_asked_for(
    adapters: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--phase", "full", "--best", "--to", tmp_path / "best") == 0
    assert export("--phase", "full", "--step", "3", "--to", tmp_path / "third") == 0
    output = capsys.readouterr().out
    assert "exported full at step 1 to" in output
    assert "exported full at step 3 to" in output
    assert not torch.equal(logits(load(tmp_path / "best")), logits(load(tmp_path / "third")))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--phase", "full", "--step", "9"], 2, "checkpoint of full at step 9 that can be read. "),
        (["--phase", "ful"], 2, "--phase is 'ful', but the session at whole has the phases full, "),
        (["--phase", "lora", "--best"], 2, "--best has no meaning for lora"),
        (["--best", "--step", "3"], 2, "both say which checkpoint"),
        (["--max-shard-size", "big"], 2, "--max-shard-size is 'big'; it must be a size"),
        (["--phase", "full", "--lora", "adapter"], 2, "full has no adapters to export alone"),
        (["--phase", "again", "--lora", "adapter"], 2, "input_layernorm.weight besides its adapt"),
    ],
)
def test_export_says_what_it_cannot_do(
    adapters: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    assert export(*words, "--to", tmp_path / "no") == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_export_never_replaces_a_folder_of_somebody(
    adapters: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("not to be lost")
    assert export("--to", tmp_path) == ExitCode.USAGE
    assert "exists already. Name a new folder with --to" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").is_file()


def test_half_an_export_never_has_the_name(
    adapters: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = TrainedPhase.find(adapters.layout().root, "full")
    folder = tmp_path / "model"
    export_phase(trained, folder, ExportForm())
    before = (folder / "model.safetensors").read_bytes()

    def fail(*_arguments: object, **_settings: object) -> None:
        assert list(folder.parent.glob(".aside-model-*"))
        raise OSError("the disk is full")

    monkeypatch.setattr(exporting, "write_model_card", fail)
    with pytest.raises(OSError, match="the disk is full"):
        export_phase(trained, folder, ExportForm(dtype="bf16"), replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "model.safetensors").read_bytes() == before


def test_export_holds_one_tensor_at_a_time(adapters: Place, tmp_path: Path) -> None:
    sizes: list[int] = []
    read = exporting._from

    def count(*arguments: Any) -> Any:
        value_of = read(*arguments)

        def counted(name: str, shape: tuple[int, ...]) -> torch.Tensor:
            sizes.append(torch.Size(shape).numel())
            return value_of(name, shape)

        return counted

    trained = TrainedPhase.find(adapters.layout().root, "full")
    assert all(parameter.is_meta for parameter in trained.build_skeleton().parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_from", count)
        export_phase(trained, tmp_path / "model", ExportForm())
    assert len(sizes) == len(list(tiny_llama().parameters()))
    assert max(sizes) == VOCABULARY * 16


def test_model_card_tells_the_way_of_the_weights_and_nothing_else(
    adapters: Place, tmp_path: Path
) -> None:
    assert export("--phase", "again", "--to", tmp_path / "card") == 0
    card = (tmp_path / "card" / "README.md").read_text()
    for text in (
        "- full starts from the weights of base, and the optimizer begins anew.",
        "- again starts from the best weights of full, with a new LoRA of rank 3",
        "| full | causal_lm | 3 | 192 | train ",
        "| again | causal_lm | 3 | 192 | train ",
        "- tokens of all phases up to this checkpoint: 960",
        "plain on 1 rank(s)",
        "trained with phaseline ",
        "No licence is stated",
    ):
        assert text in card
    assert "| more |" not in card
    assert "license:" not in card.split("---")[1]


def test_export_needs_weights_alone(
    adapters: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "whole"
    shutil.copytree(adapters.layout().root, copy)
    assert all("final" in str(path) for path in list_kept(adapters.layout().phase("more")))
    trained = TrainedPhase.find(copy, "more")
    assert trained.manifest.weights_only
    export_phase(trained, tmp_path / "model", ExportForm())
    expected = logits(trained_model(adapters, "more"))
    torch.testing.assert_close(logits(load(tmp_path / "model")), expected, atol=1e-5, rtol=0)
