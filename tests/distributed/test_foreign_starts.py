"""Weights from outside in every engine, on one and on two real ranks; one start per number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distributed.engine_cases import (
    ENGINES,
    Case,
    optimizer_of,
    pieces,
    put_together,
    settings_of,
)
from distributed.ranks import run_ranks
from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin, SavedPosition
from phaseline.checkpoint.weight_matching import fill_engine, match_names
from phaseline.checkpoint.weight_readers import open_weights
from phaseline.distributed.engines import Engine, build_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.models.skeleton import build_without_memory

CASES = {name: Case(engine=name, settings={"unused_parameters": False}) for name in ENGINES} | {
    f"{name}-bf16": Case(engine=name, precision="bf16", settings={"unused_parameters": False})
    for name in ENGINES
}
# With one rank nothing is divided that bf16 could round in another way.
KEYS = {1: list(ENGINES), 2: list(CASES)}
EVERY = [(ranks, key) for ranks, keys in KEYS.items() for key in keys]
KINDS = ("folder", "shards", "file", "checkpoint")


def tiny_llama(seed: int) -> torch.nn.Module:
    """transformers' own, with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    module: torch.nn.Module = LlamaForCausalLM(config)
    return module


def engine_of(case: Case, world: World, *, seed: int = 5) -> Engine:
    """An engine with other weights, or under ZeRO-3 with none at all."""
    filled_later = case.engine == "zero3"
    module = build_without_memory(lambda: tiny_llama(seed)) if filled_later else tiny_llama(seed)
    module.get_parameter("model.norm.weight").requires_grad_(False)
    return build_engine(module, optimizer_of(module), settings_of(case), world)


def write_checkpoint(folder: Path, world: World) -> Path:
    """What a session leaves, of the weights of seed 0."""
    module = tiny_llama(0)
    engine = build_engine(module, optimizer_of(module), settings_of(CASES["plain"]), world)
    store = CheckpointStore(
        folder,
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=2),
        fence=lambda: None,
    )
    position = SavedPosition(
        phase="p", phase_step=0, global_step=0, tokens=0, final=True, committed=()
    )
    store.save(engine, position, {"stateful": {}})
    [report] = store.wait()
    engine.close()
    return report.folder


def start_all(folder: str) -> dict[str, Any]:
    """By case and kind: this rank's pieces of the weights, and the loss of one batch."""
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=60)
    root = Path(folder)
    checkpoint = write_checkpoint(root / f"checkpoints-{world.dp_world_size}", world)
    paths = {kind: str(root / kind) for kind in ("folder", "shards")}
    paths |= {"file": str(root / "one.safetensors"), "checkpoint": str(checkpoint)}
    found: dict[str, Any] = {}
    for key in KEYS[world.dp_world_size]:
        case = CASES[key]
        engine = engine_of(case, world)
        for kind in KINDS:
            with torch.no_grad():
                for fragment in engine.state_fragments():
                    fragment.weight.zero_()
            with open_weights(find_weights(paths[kind])) as reader:
                fill_engine(reader, match_names(reader, engine.module), engine)
            ids = torch.arange(8).view(1, 8)
            with torch.no_grad():
                logits = engine.model(input_ids=ids).logits.double()
            found[f"{key} {kind}"] = {"pieces": pieces(engine), "logits": logits.tolist()}
        engine.close()
    world.close()
    return found


# Some twenty seconds: every engine starts from every form of weights, on one rank and on two.
@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("foreign")
    saved: Any = tiny_llama(0)
    saved.save_pretrained(root / "folder")
    saved.save_pretrained(root / "shards", max_shard_size="1KB")
    assert len(list((root / "shards").glob("*.safetensors"))) > 1
    state = {name: t.clone() for name, t in saved.state_dict().items() if name != "lm_head.weight"}
    save_file(state, root / "one.safetensors")
    return {ranks: run_ranks(start_all, ranks, str(root), timeout_s=200) for ranks in (1, 2)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ranks", "key"), EVERY)
def test_engine_starts_with_the_bits_of_the_weights_when_they_come_from_outside(
    facts: dict[int, list[dict[str, Any]]], ranks: int, key: str, kind: str
) -> None:
    whole = put_together([rank[f"{key} {kind}"]["pieces"] for rank in facts[ranks]])
    expected = {name: p.detach().double() for name, p in tiny_llama(0).named_parameters()}
    assert whole.keys() == expected.keys()
    for name, values in expected.items():
        if name == "model.norm.weight" and "bf16" in key and not key.startswith("plain"):
            values = values.bfloat16().double()  # frozen: it has the dtype of the model
        assert whole[name] == values.flatten().tolist(), name


@pytest.mark.parametrize(("ranks", "key"), EVERY)
def test_forward_uses_the_weights_when_they_come_from_outside(
    facts: dict[int, list[dict[str, Any]]], ranks: int, key: str
) -> None:
    with torch.no_grad():
        expected = tiny_llama(0)(input_ids=torch.arange(8).view(1, 8)).logits.double()
    for rank in facts[ranks]:
        for kind in KINDS:
            found = torch.tensor(rank[f"{key} {kind}"]["logits"])
            torch.testing.assert_close(
                found, expected, atol=2e-2 if "bf16" in key else 1e-6, rtol=0, check_dtype=False
            )
