"""Six shapes of jobs, and the texts of their scripts.

python tests/slurm/shapes.py      writes the texts in scripts/ anew
"""

from __future__ import annotations

import os
from pathlib import Path

from phaseline.cluster.script import build_script
from phaseline.config.loading import load_config

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "scripts"
CONFIG = Path("configs/tiny.yaml")
SHAPES: dict[str, list[str]] = {
    "1x1_cpu": ["cluster.nodes=1", "cluster.cpus_per_node=2", "cluster.memory=4G"],
    "1x8": [
        "cluster.processes_per_node=8",
        "cluster.gpus_per_node=8",
        "cluster.cpus_per_node=64",
        "phases[*].batch.micro_size=1",
        "cluster.environment=['source .venv/bin/activate', 'export NCCL_DEBUG=WARN']",
    ],
    "4x8_container": [
        "cluster.nodes=4",
        "cluster.processes_per_node=8",
        "cluster.gpus_per_node=8",
        "phases[*].batch={global_size: 32, micro_size: 1}",
        "cluster.time='2-00:00:00'",
        "cluster.container={image: images/train.sif, mounts: ['/data:/data']}",
        "cluster.modules=[apptainer/1.3]",
    ],
    "2x4_preemptible": [
        "cluster.nodes=2",
        "cluster.processes_per_node=4",
        "cluster.gpus_per_node=4",
        "phases[*].batch.micro_size=1",
        "cluster.partition=batch",
        "cluster.signal_lead_s=300",
        "cluster.sbatch=['--mail-type=END', '--exclusive']",
    ],
    "array": ["cluster.array=[session.seed=1, session.seed=2, session.seed=3]"],
    "chained": ["cluster.chain=3", "cluster.requeue=false"],
}


def render(shape: str, *, line: str = "0123456789ab") -> str:
    """The first job's script of a shape, as on a machine whose Python is in .venv."""
    overrides = SHAPES[shape]
    loaded = load_config(CONFIG, overrides)
    is_chained = loaded.config.cluster.chain > 1
    return build_script(
        loaded,
        overrides=overrides,
        line=line if is_chained else "",
        is_chained=is_chained,
        python=".venv/bin/python",
    ).render()


def golden(shape: str) -> Path:
    """The file that holds the script of a shape."""
    return FOLDER / f"{shape}.sbatch"


if __name__ == "__main__":
    os.chdir(ROOT)
    for name in SHAPES:
        golden(name).write_text(render(name))
