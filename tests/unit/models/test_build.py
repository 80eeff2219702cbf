from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.config.model_head import ModelHead
from phaseline.config.model_section import ModelSection
from phaseline.data.batch import LabelledBatch
from phaseline.errors import ConfigurationError
from phaseline.models.build import build_model, require_buildable
from phaseline.objectives.classification import class_logits

SPECIAL = {"eos_token_id": 256, "pad_token_id": 257}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


def half_linear(vocab_size: int, width: int) -> torch.nn.Module:
    return torch.nn.Linear(width, vocab_size).half().eval()


def small_llama(vocab_size: int) -> torch.nn.Module:
    section = ModelSection(config={**LLAMA, "vocab_size": 257})
    return build_model(section, vocab_size=257, special_ids={"eos_token_id": 1, "pad_token_id": 2})


def no_model(vocab_size: int) -> str:
    return "a word"


def build(**section: Any) -> torch.nn.Module:
    return build_model(ModelSection(**section), vocab_size=258, special_ids=SPECIAL)


def test_model_takes_vocabulary_and_special_tokens_from_the_tokenizer() -> None:
    module: Any = build(config=LLAMA)
    assert module.config.vocab_size == 258
    assert (module.config.eos_token_id, module.config.pad_token_id) == (256, 257)
    assert module.training
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_model_has_the_same_weights_when_the_random_state_is_the_same() -> None:
    def weights() -> torch.Tensor:
        torch.manual_seed(4)
        return torch.cat([p.detach().flatten() for p in build(config=LLAMA).parameters()])

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"config": {**LLAMA, "vocab_size": 257}}, "model.config.vocab_size"),
        ({"factory": f"{__name__}:small_llama"}, "model.factory"),
    ],
)
def test_model_is_refused_when_a_token_has_no_embedding(section: dict[str, Any], path: str) -> None:
    message = f"{re.escape(path)} gives 257 embeddings; the tokenizer has 258 entries"
    with pytest.raises(ConfigurationError, match=message):
        build(**section)


def test_model_keeps_a_vocabulary_that_is_given() -> None:
    module: Any = build(config={**LLAMA, "vocab_size": 300})
    assert module.config.vocab_size == 300


def test_model_is_refused_when_a_field_would_have_no_effect() -> None:
    with pytest.raises(
        ConfigurationError, match=r"model\.config has hiden_size, which LlamaConfig"
    ):
        build(config={**LLAMA, "hiden_size": 3})


@pytest.mark.parametrize(
    "config",
    [
        {**LLAMA},
        {**LLAMA, "vocab_size": 259},
        {"model_type": "gpt2", "hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 300},
        {"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 16},
        {"model_type": "bloom", "n_layer": 1, "hidden_size": 16, "n_head": 2},
    ],
)
def test_require_buildable_takes_a_model_and_leaves_its_configuration(
    config: dict[str, Any],
) -> None:
    section = ModelSection(config={**config})
    require_buildable(section)
    assert section.config == config


def test_require_buildable_refuses_what_transformers_refuses() -> None:
    layers = {"layer_types": ["full_attention"] * 3}
    with pytest.raises(ConfigurationError, match="describes no causal language model"):
        require_buildable(ModelSection(config={**LLAMA, **layers}))


def test_model_takes_fields_by_the_names_that_transformers_translates() -> None:
    module: Any = build(config={**LLAMA, "rope_theta": 5e5})
    assert module.config.rope_parameters["rope_theta"] == 5e5
    module = build(config={"model_type": "gpt2", "hidden_size": 16, "n_layer": 1, "n_head": 2})
    assert module.config.n_embd == 16


def test_model_is_refused_when_transformers_does_not_know_its_type() -> None:
    with pytest.raises(ConfigurationError, match="describes no causal language model"):
        build(config={"model_type": "nonsense"})


def test_model_of_a_factory_gets_its_arguments_and_is_fp32_in_training_mode() -> None:
    module = build(factory=f"{__name__}:half_linear", arguments={"width": 3})
    assert isinstance(module, torch.nn.Linear)
    assert (module.in_features, module.out_features) == (3, 258)
    assert (module.weight.dtype, module.training) == (torch.float32, True)


def test_model_is_refused_when_the_factory_makes_none() -> None:
    with pytest.raises(ConfigurationError, match=r"no_model returned a str.*torch\.nn\.Module"):
        build(factory=f"{__name__}:no_model")


def test_attention_is_what_is_chosen() -> None:
    for name in ("eager", "sdpa"):
        module: Any = build(config=LLAMA, attention=name)
        assert module.config._attn_implementation == name


def test_attention_is_refused_when_it_cannot_run_here() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"model\.attention is 'flash_attention_2', which transformers refuses for this model",
    ):
        build(config=LLAMA, attention="flash_attention_2")
    with pytest.raises(ConfigurationError, match="describes no causal language model"):
        build(config={**LLAMA, "num_attention_heads": "two"}, attention="eager")


def test_pretrained_model_has_the_architecture_of_its_folder_and_room_for_every_token(
    tmp_path: Path,
) -> None:
    for vocab_size, expected in ((200, 258), (300, 300)):
        saved: Any = build(config={**LLAMA, "vocab_size": 300})
        saved.config.vocab_size = vocab_size
        saved.config.save_pretrained(tmp_path)
        module: Any = build(pretrained=str(tmp_path))
        assert module.config.hidden_size == 16
        assert module.get_input_embeddings().weight.shape == (expected, 16)
        assert (module.config.eos_token_id, module.config.pad_token_id) == (256, 257)
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_pretrained_model_is_refused_when_it_was_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"model\.pretrained is 'org/tiny', which is not whole in this mac"
    ):
        build(pretrained="org/tiny")


VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
}
BERT = {**LLAMA, "model_type": "bert"}


def classifier(config: dict[str, Any], names: tuple[str, ...] = ()) -> Any:
    head = ModelHead("classes", names)
    section = ModelSection(config=config)
    return build_model(section, vocab_size=258, special_ids=SPECIAL, head=head).eval()


def test_classifier_of_text_has_the_classes_and_the_tokenizer_of_its_data() -> None:
    module = classifier(LLAMA, ("a", "b", "c"))
    assert type(module).__name__ == "LlamaForSequenceClassification"
    assert module.config.num_labels == 3
    assert module.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert (module.config.vocab_size, module.config.pad_token_id) == (258, 257)
    assert classifier({**LLAMA, "num_labels": 7}).config.num_labels == 7


def test_classifier_of_images_has_no_vocabulary() -> None:
    module = classifier({**VIT, "num_labels": 4})
    assert type(module).__name__ == "ViTForImageClassification"
    assert "vocab_size" not in module.config.to_dict()
    batch = LabelledBatch(torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), 3)
    assert class_logits(module, batch).shape == (3, 4)


@pytest.mark.parametrize("config", [LLAMA, BERT], ids=["llama", "bert"])
def test_classifier_sees_no_padding(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = classifier({**config, "num_labels": 3})
    lengths = [3, 8, 5]
    texts = [torch.randint(0, 256, (length,)) for length in lengths]
    padded = torch.full((3, 16), SPECIAL["pad_token_id"])
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    labels = torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        together = class_logits(module, LabelledBatch(padded, labels, 3, torch.tensor(lengths)))
        alone = [
            class_logits(
                module, LabelledBatch(text[None], labels[:1], 1, torch.tensor([len(text)]))
            )
            for text in texts
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def no_tokens(width: int) -> torch.nn.Module:
    return torch.nn.Linear(width, 2)


def test_factory_is_given_the_vocabulary_only_if_it_takes_it() -> None:
    module = build(factory=f"{__name__}:no_tokens", arguments={"width": 3})
    assert isinstance(module, torch.nn.Linear)
    assert module.in_features == 3


def test_architecture_without_a_classifier_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.config describes no classifier of tr"):
        classifier({**LLAMA, "model_type": "clvp"})
