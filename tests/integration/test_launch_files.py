"""The files in `launch/`, through the real `accelerate launch`, as their own comments say.

What a file decides is how many processes start and who they are told to be. That shows
without a GPU: none of it looks for one.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from integration.launched import RUN_LIMIT_S, final_checkpoint
from phaseline.checkpoint.manifest import verify
from phaseline.distributed.environment import RankEnvironment
from phaseline.session.attempts import read_outcome
from phaseline.session.layout import SessionLayout

ROOT = Path(__file__).parents[2]
NAMES = ["cpu_1", "cpu_2", "gpu_1", "gpu_8", "multi_node"]
LIMIT_S = 120.0
PROGRAM = "-m phaseline run CONFIG"

# How many processes, where, and how they meet. What training does stands in the session file.
ALLOWED_KEYS = {
    "compute_environment",
    "distributed_type",
    "deepspeed_config",
    "num_machines",
    "num_processes",
    "machine_rank",
    "main_process_port",
    "rdzv_backend",
    "same_network",
}
ALLOWED_KEYS_OF_DEEPSPEED = {"deepspeed_multinode_launcher"}

_TELL = """
import json, os, sys
with open(os.path.join(sys.argv[1], os.environ["RANK"] + ".json"), "x") as file:
    json.dump(dict(os.environ), file)
"""
_ONE_PHASE = """
session: {name: one_phase}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64}
phases:
  - name: pretrain
    objective: causal_lm
    duration: 2 steps
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 32,
           held_out_frac: 0.2}
    batch: {global_size: 4, micro_size: 2}
    optimizer: {lr: 1e-2}
    engine: {zero_stage: 1}
    evaluate: {max_sequences: 4}
tracking: {wandb: {mode: disabled}}
"""


def commented_command(name: str, program: list[str], **numbers: str) -> list[str]:
    """The command that a file's comment gives, with another program and with the numbers."""
    text = (ROOT / "launch" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    command = " ".join(line.strip().removesuffix("\\") for line in lines)
    assert command.startswith(f"accelerate launch --config_file launch/{name}.yaml ")
    assert command.endswith(PROGRAM)
    words = shlex.split(command.removesuffix(PROGRAM))
    accelerate = str(Path(sys.executable).parent / "accelerate")
    return [accelerate, *(numbers.get(word, word) for word in words[1:]), *program]


def environment(**more: str) -> dict[str, str]:
    """That of a user's shell."""
    given = ("ACCELERATE_", "CUDA_", "TORCHELASTIC_", "MASTER_", "RANK", "LOCAL_", "WORLD_SIZE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(given)}
    return {**kept, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **more}


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def told(folder: Path) -> list[dict[str, str]]:
    """What each rank found in its environment, by rank."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda variables: int(variables["RANK"]))


def require_world(ranks: list[dict[str, str]], *, num_machines: int, per_machine: int) -> None:
    """Every rank reads its own place, meets the others, and is told nothing about training."""
    places = [RankEnvironment.read(variables) for variables in ranks]
    world_size = num_machines * per_machine
    assert [place.rank for place in places] == list(range(world_size))
    assert {place.world_size for place in places} == {world_size}
    assert [place.local_rank for place in places] == [*range(per_machine)] * num_machines
    assert {place.master_addr for place in places} == {"127.0.0.1"}
    [port] = {place.master_port for place in places}
    assert port > 0
    assert all(place.agent_hosts_store for place in places)
    for variables in ranks:
        # Each rank sees all GPUs and takes the one of its local rank.
        assert "CUDA_VISIBLE_DEVICES" not in variables
        of_accelerate = {key: variables[key] for key in variables if key.startswith("ACCELERATE_")}
        # Fields of DeepSpeed that a file sets are refused beside a configuration of ours.
        fields = of_accelerate.pop("ACCELERATE_CONFIG_DS_FIELDS").split(",")
        assert set(fields) <= {"", *ALLOWED_KEYS_OF_DEEPSPEED}
        assert of_accelerate == {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_MIXED_PRECISION": "no",
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """A program that leaves its environment in a file of its rank."""
    path = tmp_path / "tell.py"
    path.write_text(_TELL, encoding="utf-8")
    (tmp_path / "told").mkdir()
    return [str(path), str(tmp_path / "told")]


def test_launch_folder_holds_these_files() -> None:
    assert sorted(path.name for path in (ROOT / "launch").iterdir()) == [
        f"{name}.yaml" for name in NAMES
    ]


@pytest.mark.parametrize(
    "path",
    [*(f"launch/{name}.yaml" for name in NAMES), "src/phaseline/cluster/accelerate.yaml"],
)
def test_launch_file_holds_no_hyper_parameter(path: str) -> None:
    content = YAML(typ="safe").load((ROOT / path).read_text(encoding="utf-8"))
    assert set(content) <= ALLOWED_KEYS
    assert set(content["deepspeed_config"]) <= ALLOWED_KEYS_OF_DEEPSPEED


@pytest.mark.parametrize(
    ("name", "per_machine"),
    [
        pytest.param("cpu_1", 1, marks=pytest.mark.extended("each file alike")),
        ("cpu_2", 2),
        pytest.param("gpu_1", 1, marks=pytest.mark.extended("each file alike")),
        ("gpu_8", 8),
    ],
)
def test_launch_file_starts_its_ranks_when_one_machine_is_named(
    name: str, per_machine: int, script: list[str]
) -> None:
    finish(start(commented_command(name, script)))
    require_world(told(Path(script[1])), num_machines=1, per_machine=per_machine)


def test_multi_node_starts_its_ranks_when_each_machine_runs_its_command(script: list[str]) -> None:
    numbers = {"N": "2", "N*R": "4", "HOST_0": "127.0.0.1", "29500": str(free_port())}
    launchers = [
        start(commented_command("multi_node", script, K=str(machine), **numbers))
        for machine in range(2)
    ]
    try:
        for launcher in launchers:
            finish(launcher)
    finally:
        for launcher in launchers:
            launcher.kill()
    ranks = told(Path(script[1]))
    require_world(ranks, num_machines=2, per_machine=2)
    assert [variables["GROUP_RANK"] for variables in ranks] == ["0", "0", "1", "1"]
    assert {variables["MASTER_PORT"] for variables in ranks} == {numbers["29500"]}


def test_multi_node_is_refused_when_the_numbers_are_left_out(script: list[str]) -> None:
    [accelerate, *_] = commented_command("multi_node", script)
    launcher = start([accelerate, "launch", "--config_file", "launch/multi_node.yaml", *script])
    output, _ = launcher.communicate(timeout=LIMIT_S)
    assert launcher.returncode != 0
    assert "manually pass in `--num_processes`" in output
    assert told(Path(script[1])) == []


def run_session(name: str, config: Path, session: Path, *overrides: str) -> str:
    """Trains a session through a launch file; returns what the terminal showed."""
    program = ["-m", "phaseline", "run", str(config), "--session", str(session)]
    for override in overrides:
        program += ["-o", override]
    done = subprocess.run(
        commented_command(name, program),
        cwd=ROOT,
        env=environment(PHASELINE_CACHE=str(session.parent / "cache"), CUDA_VISIBLE_DEVICES=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    outcome = read_outcome(SessionLayout(session).attempt(1))
    assert outcome is not None
    assert outcome.code == 0
    return done.stdout


@pytest.mark.extended("a whole session, by the real `accelerate launch`")
def test_phaseline_run_trains_every_phase_when_started_with_cpu_1(tmp_path: Path) -> None:
    session = tmp_path / "session"
    short = ["phases[*].duration=2 steps", "phases[*].schedule.warmup=null"]
    output = run_session("cpu_1", ROOT / "configs" / "tiny.yaml", session, *short)
    for phase in ("pretrain", "instruct"):
        manifest = verify(final_checkpoint(session, phase))
        assert (manifest.engine, manifest.world_size) == ("plain", 1)
    # Once per attempt, though each piece of work has a process image of its own.
    assert output.count("deterministic: an interrupted run equals an uninterrupted one") == 1


@pytest.mark.extended("a whole session, by the real `accelerate launch`")
def test_phaseline_run_trains_on_two_ranks_with_deepspeed_when_started_with_cpu_2(
    tmp_path: Path,
) -> None:
    config, session = tmp_path / "one_phase.yaml", tmp_path / "session"
    config.write_text(_ONE_PHASE, encoding="utf-8")
    run_session("cpu_2", config, session)
    manifest = verify(final_checkpoint(session, "pretrain"))
    assert (manifest.engine, manifest.world_size) == ("zero1", 2)
    assert SessionLayout(session).attempt(1).rank_log(1).is_file()
