from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phaseline.errors import ConfigurationError
from phaseline.models.compilation import compile_module, require_compiler, uncompiled

PATH = "phases[0].engine.compile"
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("settings_of_the_compiler")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(16, 8)
        self.head = torch.nn.Linear(8, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.nn.functional.gelu(self.embed(ids)))
        return logits


def ids(num_rows: int, length: int) -> torch.Tensor:
    return torch.arange(num_rows * length).view(num_rows, length) % 16


def train_step(module: torch.nn.Module) -> float:
    batch = ids(2, 6)
    loss = torch.nn.functional.cross_entropy(module(batch).flatten(0, 1), batch.flatten())
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
            parameter.grad = None
    return loss.item()


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def num_graphs() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.extended("each shape is compiled")
def test_compiled_module_trains_as_an_eager_one_whatever_it_evaluates_between() -> None:
    torch.manual_seed(0)
    eager = Model()
    straight, interrupted = copy.deepcopy(eager), copy.deepcopy(eager)
    compile_module(straight)
    compile_module(interrupted)
    expected = [train_step(eager) for _ in range(3)]
    assert [train_step(straight) for _ in range(3)] == pytest.approx(expected, rel=1e-5)

    for shape in ((3, 5), (4, 7), (5, 9)):
        before = num_graphs()
        with torch.no_grad():
            interrupted.eval()(ids(*shape))
        # A graph for any shape would serve the third too, and the training after it.
        assert num_graphs() == before + 1
        interrupted.train()
        train_step(interrupted)
    assert torch.equal(weights(interrupted), weights(straight))
    assert list(interrupted.state_dict()) == list(eager.state_dict())


@pytest.mark.extended("a C++ compiler runs")
def test_compiled_module_runs_as_it_is_while_uncompiled() -> None:
    module, before = Model(), num_graphs()
    compile_module(module)
    with torch.no_grad(), uncompiled():
        module(ids(1, 4))
        assert num_graphs() == before
    with torch.no_grad():
        module(ids(1, 4))
    assert num_graphs() == before + 1


def test_compiled_module_raises_where_torch_would_go_on_without_a_compiler() -> None:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    module = Model()
    compile_module(module)
    with torch.no_grad(), torch._dynamo.config.patch({"recompile_limit": 1}):
        module(ids(1, 4))
        with pytest.raises(FailOnRecompileLimitHit, match="recompile_limit"):
            module(ids(1, 5))


@pytest.mark.extended("each process compiles anew")
def test_compiled_modules_agree_bit_for_bit_when_two_processes_compile_them(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TRAINED],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / name)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    ]
    first, second = (process.communicate(timeout=200)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    assert len(first.split()) == 2


# With dropout, so that the compiler's own random numbers take part.
_TRAINED = """
import hashlib
import torch
from phaseline.models.compilation import compile_module

torch.set_num_threads(1)
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Dropout(0.5))
compile_module(module)
for step in range(2):
    torch.manual_seed(step)
    module(torch.randn(6, 24)).square().mean().backward()
    gradients = [parameter.grad.numpy().tobytes() for parameter in module.parameters()]
    print(hashlib.sha256(b"".join(gradients)).hexdigest())
"""


def test_require_compiler_passes_when_there_is_one() -> None:
    require_compiler(CPU, path=PATH)


def test_require_compiler_says_what_is_missing_when_there_is_none() -> None:
    import torch._inductor.config

    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}),
        pytest.raises(
            ConfigurationError,
            match=r"phases\[0\]\.engine\.compile is true, but torch\.compile fails here: .*"
            r"No working C\+\+ compiler found.*/nowhere/g\+\+.*Install a C\+\+ compiler",
        ),
    ):
        require_compiler(CPU, path=PATH)


def test_require_compiler_says_so_when_it_is_switched_off() -> None:
    with (
        torch._dynamo.config.patch({"disable": True}),
        pytest.raises(ConfigurationError, match=r"switched off here\. Remove TORCH_COMPILE_DIS"),
    ):
        require_compiler(CPU, path=PATH)
