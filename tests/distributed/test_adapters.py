"""Adapters in every engine on two real ranks, and exports of what every engine left; one start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.engine_cases import ENGINES, Case, optimizer_of, pieces, put_together, settings_of
from distributed.ranks import run_ranks
from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.lora_weights import view_with_adapters, view_without_adapters
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin, SavedPosition
from phaseline.checkpoint.weight_matching import fill_engine, match_names
from phaseline.checkpoint.weight_readers import open_weights
from phaseline.config.model_section import LoraSection, ModelSection, TrainableSection
from phaseline.config.sections import Config
from phaseline.data.tokenizer import Tokenizer
from phaseline.distributed.adapter_record import record_of
from phaseline.distributed.engines import Engine, build_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.models.build import build_model
from phaseline.models.skeleton import build_without_memory
from phaseline.models.trainable import prepare_trainable
from phaseline.session.layout import SessionLayout
from phaseline.training.pipeline.exporting import ExportForm, export_phase
from phaseline.training.pipeline.trained_phase import TrainedPhase

MODEL = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "tie_word_embeddings": True,
}
VOCABULARY = 259
SEED = 7
IDS = torch.arange(0, 248, 31).view(1, 8)
PLAIN, LORA = TrainableSection(), TrainableSection(lora=LoraSection(rank=2, dropout=0.2))
MIXED = TrainableSection(lora=LoraSection(rank=2, targets=("q_proj",)), train=("norm",))

pytestmark = pytest.mark.extended("adapters in every engine")


def bare_model(seed: int, trainable: TrainableSection = PLAIN) -> torch.nn.Module:
    torch.manual_seed(seed)
    special = {"eos_token_id": 256, "pad_token_id": 257}
    module = build_model(ModelSection(config=MODEL), vocab_size=VOCABULARY, special_ids=special)
    prepare_trainable(module, trainable, path="phases[0].trainable")
    return module


class Workplace:
    """What one rank of the started world does for one engine."""

    def __init__(self, key: str, world: World, root: Path) -> None:
        self.case = Case(engine=key, settings={"unused_parameters": False})
        self.world, self.root, self.key = world, root, key
        layout = SessionLayout(root / key)
        self.store = CheckpointStore(
            layout.phase("only").checkpoints_dir,
            world,
            Origin(session="s", attempt=1, config_fingerprint="f"),
            Retention(keep_last=9),
            fence=lambda: None,
            timeout_s=60,
        )

    def engine(self, seed: int, trainable: TrainableSection) -> Engine:
        def build() -> torch.nn.Module:
            return bare_model(seed, trainable)

        module = build_without_memory(build) if self.key == "zero3" else build()
        return build_engine(module, optimizer_of(module), settings_of(self.case), self.world)

    def started(self, trainable: TrainableSection, weights: Path, fate: Any = "merge") -> Engine:
        """An engine of other weights that begins with those at a path."""
        engine = self.engine(5, trainable)
        record = record_of(engine.module)
        with open_weights(find_weights(str(weights))) as reader:
            view = view_without_adapters(reader, fate)
            if record is not None and fate != "keep":
                view = view_with_adapters(view, record, seed=SEED)
            fill_engine(view, match_names(view, engine.module), engine)
        return engine

    def train(self, engine: Engine, steps: range) -> None:
        for step in steps:
            torch.manual_seed(100 * step + self.world.dp_rank)
            for micro_step in range(self.case.accumulation):
                ids = torch.randint(VOCABULARY, (2, 9))
                engine.begin_micro_step(is_last=micro_step == self.case.accumulation - 1)
                logits = engine.model(input_ids=ids[:, :-1]).logits
                losses = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), ids[:, 1:].flatten()
                )
                engine.backward(losses / self.case.accumulation)
            assert not engine.step().skipped

    def save(self, engine: Engine, step: int) -> Path:
        position = SavedPosition(
            phase="only", phase_step=step, global_step=step, tokens=step, final=False, committed=()
        )
        fingerprint = Tokenizer.of_bytes().fingerprint
        state = {"tokenizer": {"fingerprint": fingerprint}, "data": {"fingerprint": "d"}}
        self.store.save(engine, position, {"stateful": state})
        return self.store.wait()[0].folder


def work(folder: str) -> dict[str, Any]:
    """By engine: what a rank holds at several moments, logits, and where checkpoints lie."""
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=60)
    found = {}
    for key in ENGINES:
        place = Workplace(key, world, Path(folder))
        found[key] = dict(_facts_of(place))
    world.close()
    return found


def _facts_of(place: Workplace) -> Iterator[tuple[str, Any]]:
    engine = place.started(LORA, place.root / "base")
    yield "start", pieces(engine)
    place.train(engine, range(2))
    saved = place.save(engine, 2)
    place.train(engine, range(2, 4))
    yield "whole", pieces(engine)
    yield "whole moments", pieces(engine, "exp_avg")
    last = place.save(engine, 4)
    yield "checkpoint", str(last)
    engine.model.eval()
    with torch.no_grad():
        yield "logits", engine.model(input_ids=IDS).logits.double().tolist()
    engine.close()
    engine = place.engine(6, LORA)
    with CheckpointReader(saved) as reader:
        load_engine(reader, engine, dp_rank=place.world.dp_rank)
    place.train(engine, range(2, 4))
    yield "resumed", pieces(engine)
    yield "resumed moments", pieces(engine, "exp_avg")
    engine.close()
    for name, trainable, fate in (
        ("merged", PLAIN, "merge"),
        ("dropped", PLAIN, "drop"),
        ("kept", LORA, "keep"),
        ("mixed", MIXED, "merge"),
    ):
        engine = place.started(trainable, last, fate)
        yield name, pieces(engine)
        engine.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


# Half a minute: seven engines with adapters for each of five kinds.
@pytest.fixture(scope="module")
def facts(root: Path) -> list[dict[str, Any]]:
    base: Any = bare_model(0)
    base.save_pretrained(root / "base")
    return run_ranks(work, 2, str(root), timeout_s=280)


def whole(facts: list[dict[str, Any]], key: str, moment: str) -> dict[str, list[float]]:
    return put_together([rank[key][moment] for rank in facts])


@pytest.mark.parametrize("key", ENGINES)
def test_fresh_adapters_begin_with_the_same_bits_in_every_engine(
    facts: list[dict[str, Any]], key: str
) -> None:
    assert whole(facts, key, "start") == whole(facts, "plain", "start")


@pytest.mark.parametrize("key", ENGINES)
def test_phase_with_adapters_goes_on_bit_for_bit_from_a_checkpoint(
    facts: list[dict[str, Any]], key: str
) -> None:
    assert whole(facts, key, "resumed") == whole(facts, key, "whole")
    moments = whole(facts, key, "whole moments")
    assert whole(facts, key, "resumed moments") == moments
    assert moments
    assert all(".lora_" in name for name in moments)
    begun = whole(facts, key, "start")
    changed = {name for name, values in whole(facts, key, "whole").items() if values != begun[name]}
    assert changed == moments.keys()


@pytest.mark.parametrize("key", ENGINES)
def test_next_phase_gets_the_same_bits_of_merged_dropped_and_kept_adapters(
    facts: list[dict[str, Any]], key: str
) -> None:
    last = whole(facts, key, "whole")
    assert whole(facts, key, "kept") == last
    merged, dropped = whole(facts, key, "merged"), whole(facts, key, "dropped")
    name = "model.layers.0.mlp.up_proj"
    a, b = (torch.tensor(last[f"{name}.lora_{which}.default.weight"]) for which in "AB")
    delta = 8.0 * b.double().view(12, 2) @ a.double().view(2, 8)
    base = torch.tensor(last[f"{name}.base_layer.weight"]).double()
    assert dropped[f"{name}.weight"] == last[f"{name}.base_layer.weight"]
    assert merged[f"{name}.weight"] == (base + delta.flatten()).float().double().tolist()
    mixed = whole(facts, key, "mixed")
    assert mixed[f"{name}.weight"] == merged[f"{name}.weight"]
    q_proj = "model.layers.1.self_attn.q_proj"
    assert mixed[f"{q_proj}.base_layer.weight"] == merged[f"{q_proj}.weight"]


@pytest.mark.parametrize("key", ENGINES)
def test_export_of_every_engine_gives_the_logits_of_the_engine(
    facts: list[dict[str, Any]], root: Path, key: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    phase = {
        "name": "only",
        "objective": "causal_lm",
        "duration": "4 steps",
        "data": {"sources": [{"source": "python_stdlib"}], "sequence_length": 8},
        "batch": {"global_size": 8, "micro_size": 2},
        "optimizer": {"lr": 0.02},
        "trainable": LORA,
    }
    config = Config.model_validate(
        {"session": {"name": "s"}, "model": {"config": MODEL}, "phases": [phase]}
    )
    trained = TrainedPhase.at(
        SessionLayout(root / key), config, "only", Path(facts[0][key]["checkpoint"])
    )
    export_phase(trained, tmp_path / "model", ExportForm(max_shard_bytes=4000))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        found = loaded(input_ids=IDS).logits.double()
    expected = torch.tensor(facts[0][key]["logits"]).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
