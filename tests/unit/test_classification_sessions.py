"""Whole sessions that train classes: of images without a tokenizer, and of texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_published
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.data.batch import LabelledBatch
from phaseline.errors import ConfigurationError, ExitCode, UsageError
from phaseline.objectives.classification import class_logits
from phaseline.training.pipeline.exporting import ExportForm, export_phase
from phaseline.training.pipeline.task_evaluation import build_scorer
from phaseline.training.pipeline.trained_phase import TrainedPhase
from phaseline.training_pipeline import TrainingPipeline
from unit.session_place import SessionPlace

pytestmark = pytest.mark.extended("whole sessions for each kind of samples")

ROOT = Path(__file__).parents[2]
QUIET = "tracking: {interval_steps: 3, console: plain, wandb: {mode: disabled}}\n"
IMAGES = (
    """\
session: {name: images, seed: 4}
model: {factory: "classes_here:build", arguments: {num_classes: 5}}
defaults:
  objective: classification
  objective_arguments: {label_smoothing: 0.1, class_weights: [1, 2, 1, 1, 0.5]}
  data:
    sources:
      - {source: "unit.data.labelled_sources:Images", weight: 2}
      - {source: "unit.data.labelled_sources:Images", arguments: {name: others, count: 31}}
    held_out_frac: 0.2
    num_workers: 1
    prefetch: 2
  batch: {global_size: 7, micro_size: 7}
  engine: {kind: plain}
  checkpoint: {every: 2 steps, keep_best: {metric: accuracy, mode: max}}
  callbacks: ["classes_here:StopAt"]
phases:
  - name: head
    duration: 6 steps
    trainable: {train: ["^head"]}
    optimizer: {lr: 1e-2}
  - name: all
    duration: 50 tokens
    optimizer: {lr: 3e-3}
    evaluate: {every: 2 steps, at_start: true, micro_size: 4}
"""
    + QUIET
)
TEXTS = (
    """\
session: {name: texts, seed: 4}
model:
  config:
    model_type: llama
    hidden_size: 16
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    max_position_embeddings: 32
    attention_dropout: 0.1
defaults:
  objective: classification
  data:
    source: files
    arguments:
      paths: [reviews.csv]
      columns: {text: said, label: meant}
      classes: [bad, good, so so]
    sequence_length: 32
    held_out_frac: 0.2
  batch: {global_size: 8, micro_size: 4}
  engine: {kind: plain}
  checkpoint: {every: 2 steps}
  callbacks: ["classes_here:StopAt"]
phases:
  - name: head
    duration: 6 steps
    optimizer: {lr: 1e-2}
  - name: all
    duration: 6 steps
    optimizer: {lr: 1e-2}
    evaluate: {every: 2 steps}
export: {phases: [all]}
"""
    + QUIET
)
MODULE = """
import torch
from phaseline.training.phases.callbacks import Callback

stops = {}


class StopAt(Callback):
    def step_ended(self, runtime):
        step = runtime.position.global_step
        if step in stops:
            stops.pop(step).set()


class Model(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.backbone = torch.nn.Linear(24, 16)
        self.dropout = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(16, num_classes)

    def forward(self, images):
        return self.head(self.dropout(self.backbone(images.flatten(1)).relu()))


class Wide(Model):
    def forward(self, images):
        return super().forward(images).unsqueeze(1)


def build(num_classes):
    return Model(num_classes)


def build_wide(num_classes):
    return Wide(num_classes)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionPlace:
    rows = [f"word{idx % 7} {'so ' * (idx % 9)},{idx % 3}" for idx in range(90)]
    names = ["bad", "good", "so so"]
    rows = [f"{row[:-1]}{names[int(row[-1])]}" for row in rows]
    (tmp_path / "reviews.csv").write_text("\n".join(["said,meant", *rows]))
    return SessionPlace.make(tmp_path, monkeypatch, module="classes_here", code=MODULE, last="all")


@pytest.mark.parametrize(
    ("text", "stops"), [(IMAGES, (3, 6, 9)), (TEXTS, (4, 7))], ids=["images", "texts"]
)
def test_session_ends_with_the_same_bits_when_it_was_stopped_and_resumed(
    place: SessionPlace, text: str, stops: tuple[int, ...]
) -> None:
    (place.folder / "session.yaml").write_text(text)
    assert place.run("whole").code is ExitCode.FINISHED
    for step in stops:
        assert place.run_until("parts", step).code is ExitCode.STOPPED
    assert place.run("parts").code is ExitCode.FINISHED
    whole, parts = place.weights("whole"), place.weights("parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert place.metrics("parts") == place.metrics("whole")
    train = [one for one in place.metrics("whole") if one["kind"] == "train"]
    validations = [one for one in place.metrics("whole") if one["kind"] == "validation"]
    assert all(f"{one['phase']}/train/accuracy" in one["metrics"] for one in train)
    assert all(
        f"{one['phase']}/validation/calibration_error" in one["metrics"] for one in validations
    )
    assert not any("perplexity" in key for one in validations for key in one["metrics"])
    report = place.layout("whole").report_file.read_text()
    size = "7 samples a step" if text is IMAGES else "8 x 32 tokens a step"
    assert size in report
    assert "accuracy" in report


def test_tokens_of_images_are_counted_one_each(place: SessionPlace) -> None:
    (place.folder / "session.yaml").write_text(IMAGES)
    place.run("whole")
    last = place.metrics("whole")[-1]
    # 50 samples in batches of 7 are 7 steps and the rest of one.
    assert (last["phase_step"], last["tokens"]) == (8, 14 * 7)
    sources = {key for one in place.metrics("whole") for key in one["metrics"]}
    assert {"all/train/loss_Images_0", "all/train/loss_Images_1"} <= sources


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.arguments.num_classes=4",
            r"model is a Model, which gives logits of 4 classes, but the data .* has labels of 5\.",
        ),
        (
            "model.arguments.num_classes=6",
            r"class_weights has 5 weights, but the model gives logits of 6 classes",
        ),
        (
            "model.factory=classes_here:build_wide",
            r"gives logits of shape \[7, 1, 5\] for 7 samples; they must be \[7, classes\]",
        ),
    ],
)
def test_model_without_the_classes_is_refused_before_anything_is_trained(
    place: SessionPlace, override: str, message: str
) -> None:
    (place.folder / "session.yaml").write_text(IMAGES)
    with pytest.raises(ConfigurationError, match=message):
        place.run("refused", override)
    assert not place.metrics("refused")


def test_model_of_text_is_refused_for_images(place: SessionPlace) -> None:
    text = TEXTS.replace("source: files", "source: unit.data.labelled_sources:Images")
    text = text.replace("    sequence_length: 32\n", "").replace(
        "classes: [bad, good, so so]", "count: 40"
    )
    lines = [line for line in text.splitlines() if "paths:" not in line and "columns:" not in line]
    text = "\n".join(lines).replace("model_type: llama", "num_labels: 5\n    model_type: llama")
    (place.folder / "session.yaml").write_text(text)
    with pytest.raises(
        ConfigurationError,
        match=r"takes input_ids, but the data of phase head are samples of 2x3x4",
    ):
        place.run("refused")


def test_exported_classifier_gives_the_same_logits_and_names_its_classes(
    place: SessionPlace,
) -> None:
    from transformers import AutoModelForSequenceClassification

    (place.folder / "session.yaml").write_text(TEXTS)
    place.run("whole")
    folder = place.layout("whole").exports_dir / "all"
    exported: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert exported.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    trained = TrainedPhase.find(place.folder / "whole", "all")
    module = trained.load_model(torch.device("cpu"))
    ids = torch.randint(0, 250, (3, 20))
    batch = LabelledBatch(ids, torch.zeros(3, dtype=torch.int64), 3, torch.full((3,), 20))
    with torch.no_grad():
        torch.testing.assert_close(
            class_logits(exported, batch), class_logits(module, batch), rtol=0, atol=1e-5
        )
    card = (folder / "README.md").read_text()
    assert "| all | classification | 6 |" in card
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapters"])
def test_classifier_starts_from_a_language_model_with_a_fresh_head_and_resumes(
    place: SessionPlace, capsys: pytest.CaptureFixture[str], lora: bool
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=259, num_attention_heads=2, **sizes)
    language: Any = LlamaForCausalLM(config)
    language.save_pretrained(place.folder / "base")
    begin, end = TEXTS.index("  config:"), TEXTS.index("defaults:")
    text = f"{TEXTS[:begin]}  pretrained: base\n{TEXTS[end:]}".replace("lr: 1e-2", "lr: 1e-12")
    if lora:
        adapted = "trainable: {lora: {rank: 2}, train: [score]}"
        text = text.replace("    duration: 6", f"    {adapted}\n    duration: 6")
    (place.folder / "session.yaml").write_text(text)
    assert place.run("whole").code is ExitCode.FINISHED
    assert "score.weight drawn at random: the weights have another head" in capsys.readouterr().err
    assert place.run_until("parts", 4).code is ExitCode.STOPPED
    assert place.run("parts").code is ExitCode.FINISHED
    whole, parts = place.weights("whole"), place.weights("parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    trained: Any = TrainedPhase.find(place.folder / "whole", "all").load_model(torch.device("cpu"))
    for name, weight in trained.model.named_parameters():
        torch.testing.assert_close(weight, language.model.get_parameter(name), rtol=0, atol=1e-6)
    assert 0.01 < float(trained.score.weight.detach().std()) < 0.03
    if lora:
        (place.folder / "session.yaml").write_text(text.replace(", train: [score]", ""))
        with pytest.raises(
            ConfigurationError,
            match=r"has no score\.weight, which would be drawn .*trainable\.train",
        ):
            place.run("frozen")


def test_exported_model_of_images_has_no_tokenizer(place: SessionPlace) -> None:
    (place.folder / "session.yaml").write_text(IMAGES)
    place.run("whole")
    trained = TrainedPhase.find(place.folder / "whole", "all")
    export_phase(trained, place.folder / "exported", ExportForm())
    assert sorted(path.name for path in (place.folder / "exported").iterdir()) == [
        "README.md",
        "model.safetensors",
    ]
    assert "tokenizer" not in (place.folder / "exported" / "README.md").read_text()
    with pytest.raises(UsageError, match=r"all trains classification, whose model says no tokens"):
        build_scorer(trained, batch_size=1)


def test_digits_reach_their_accuracy_in_two_phases(
    place: SessionPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delitem(sys.modules, "digits_model", raising=False)
    pipeline = TrainingPipeline(
        ROOT / "configs" / "digits.yaml",
        overrides=("tracking.wandb.mode=disabled",),
        session_dir=place.folder / "digits",
    )
    assert pipeline.run().code is ExitCode.FINISHED
    monkeypatch.delitem(sys.modules, "digits_model")
    reached = {}
    frozen = {}
    for record in place.metrics("digits"):
        if record["kind"] == "validation":
            reached[record["phase"]] = record["metrics"][f"{record['phase']}/validation/accuracy"]
    for phase in ("head", "all"):
        folder = list_published(place.layout("digits").phase(phase).checkpoints_dir)
        folder = folder or sorted(place.layout("digits").phase(phase).final_dir.iterdir())
        parameters = CheckpointReader(folder[-1]).parameters
        frozen[phase] = {name for name, one in parameters.items() if not one["trainable"]}
    assert frozen["all"] == set()
    assert frozen["head"] == {
        "backbone.0.weight",
        "backbone.0.bias",
        "backbone.2.weight",
        "backbone.2.bias",
    }
    assert reached["head"] > 0.8
    assert reached["all"] >= 0.97
    assert reached["all"] > reached["head"] + 0.02
