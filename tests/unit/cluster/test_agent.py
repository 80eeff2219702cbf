from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from phaseline.cluster import launch_command

_PROGRAM = """
import sys
from phaseline.cluster import agent
agent.main()
print("deepspeed" in sys.modules)
runner = sys.modules["deepspeed.launcher.runner"]
print(callable(runner.parse_args), runner.DEEPSPEED_ENVIRONMENT_NAME)
print("deepspeed" in sys.modules)
"""


def test_agent_starts_ranks_without_deepspeed_which_is_there_for_who_asks() -> None:
    config = Path(launch_command.__file__).with_name("accelerate.yaml")
    words = (
        f"--config_file {config} --use_deepspeed --num_machines 1 --num_processes 1 "
        f"--main_process_port 0 --log_dir {os.devnull} --mixed_precision no --dynamo_backend no "
        "--no_python echo rank"
    )
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words.split()],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "DS_ENV_FILE": "ours"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["rank", "False", "True ours", "True"]
