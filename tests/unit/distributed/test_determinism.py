from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from phaseline.distributed.determinism import (
    deterministic_kernels,
    prepare_environment,
    promise,
    promises,
    resolve,
)
from phaseline.errors import EngineError, UsageError

PATH = "phases[1].engine.deterministic"
OURS = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NCCL_ALGO": "Ring",
    "NCCL_PROTO": "Simple",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
}
Switches = tuple[int, bool, bool, bool]


def switches() -> Switches:
    filling: Any = torch.utils.deterministic
    return (
        torch.get_deterministic_debug_mode(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        filling.fill_uninitialized_memory,
    )


def set_switches(values: Switches) -> None:
    filling: Any = torch.utils.deterministic
    torch.set_deterministic_debug_mode(values[0])
    torch.backends.cudnn.deterministic = values[1]
    torch.backends.cudnn.benchmark = values[2]
    filling.fill_uninitialized_memory = values[3]


@pytest.fixture(autouse=True)
def switches_are_put_back() -> Iterator[None]:
    before = switches()
    yield
    set_switches(before)


def put(size: int = 4) -> torch.Tensor:
    """An operation that has no deterministic implementation on any device."""
    return torch.zeros(size).put_(torch.tensor([0]), torch.ones(1))


@pytest.mark.parametrize(
    ("setting", "device_type", "meaning"),
    [
        (None, "cpu", True),
        (None, "cuda", False),
        (True, "cpu", True),
        (True, "cuda", True),
        (False, "cpu", False),
        (False, "cuda", False),
    ],
)
def test_resolve_takes_null_as_true_on_cpus_alone(
    setting: bool | None, device_type: str, meaning: bool
) -> None:
    assert resolve(setting, device_type) is meaning


def test_promise_says_what_must_stay_the_same_when_deterministic() -> None:
    assert promise(True, "cpu").endswith("bit for bit (same ranks, threads and versions)")
    assert promise(True, "cuda").endswith("bit for bit (same ranks, GPU model and versions)")


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_promise_names_the_setting_when_not_deterministic(device_type: str) -> None:
    line = promise(False, device_type)
    assert "the same bits" in line
    assert "the same samples" in line
    assert "within rounding" in line
    assert "engine.deterministic: true" in line
    assert "\n" not in line


def test_promises_are_one_line_when_all_phases_are_alike() -> None:
    assert promises({"a": False, "b": False}, "cuda") == [promise(False, "cuda")]


def test_promises_name_the_phases_when_they_differ() -> None:
    assert promises({"a": False, "b": True, "c": False}, "cuda") == [
        f"b: {promise(True, 'cuda')}",
        f"a, c: {promise(False, 'cuda')}",
    ]


def test_prepare_environment_sets_every_variable_when_one_phase_wants_it() -> None:
    variables = {"PATH": "/bin", "NCCL_PROTO": ""}
    prepare_environment({"a": False, "b": True}, "cuda", variables)
    assert variables == {"PATH": "/bin", **OURS}
    prepare_environment({"a": False, "b": True}, "cuda", variables)
    assert variables == {"PATH": "/bin", **OURS}


@pytest.mark.parametrize(("phases", "device_type"), [({"a": False}, "cuda"), ({"a": True}, "cpu")])
def test_prepare_environment_changes_nothing_when_nothing_needs_it(
    phases: dict[str, bool], device_type: str
) -> None:
    variables = {"NCCL_ALGO": "NVLS"}
    prepare_environment(phases, device_type, variables)
    assert variables == {"NCCL_ALGO": "NVLS"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUBLAS_WORKSPACE_CONFIG", ":16:8"),
        ("NCCL_ALGO", "tree"),
        ("NCCL_ALGO", "ring;allreduce:Tree;broadcast:ring"),
        ("NCCL_PROTO", "LL128"),
        ("NCCL_PROTO", "Simple;AllReduce:LL"),
    ],
)
def test_prepare_environment_keeps_a_value_of_the_user_when_it_keeps_the_promise(
    name: str, value: str
) -> None:
    variables = {name: value}
    prepare_environment({"a": True}, "cuda", variables)
    assert variables == {**OURS, name: value}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0", ":4096:8 or :16:8"),
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8", ":4096:8 or :16:8"),
        ("NCCL_ALGO", "NVLS", "Ring, Tree or Ring;allreduce:Tree"),
        ("NCCL_ALGO", "^NVLS", "Ring, Tree or Ring;allreduce:Tree"),
        ("NCCL_ALGO", "Ring,Tree", "Ring, Tree or Ring;allreduce:Tree"),
        ("NCCL_ALGO", "ring;allreduce:nvlstree", "Ring, Tree or Ring;allreduce:Tree"),
        # Which algorithm the other collectives take is then NCCL's to choose.
        ("NCCL_ALGO", "allreduce:ring", "Ring, Tree or Ring;allreduce:Tree"),
        ("NCCL_PROTO", "^LL128", "Simple, LL or LL128"),
        ("NCCL_PROTO", "LL,Simple", "Simple, LL or LL128"),
        ("FLASH_ATTENTION_DETERMINISTIC", "0", "1"),
    ],
)
def test_prepare_environment_names_variable_found_allowed_and_fix_when_it_contradicts(
    name: str, value: str, allowed: str
) -> None:
    variables = {name: value}
    with pytest.raises(UsageError, match="environment variable") as raised:
        prepare_environment({"a": False, "b": True}, "cuda", variables)
    assert str(raised.value) == (
        f"The environment variable {name} is {value!r}, and phases[b].engine.deterministic is "
        f"true; it must be {allowed}. Unset it, which means {OURS[name]}, or set "
        "engine.deterministic to false."
    )


def test_prepare_environment_refuses_when_cuda_has_started_without_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No CUDA here to start.
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="Set CUBLAS_WORKSPACE_CONFIG=:4096:8 before the program"):
        prepare_environment({"a": True}, "cuda", {})
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    prepare_environment({"a": True}, "cuda", variables)
    assert variables["NCCL_ALGO"] == "Ring"


@pytest.mark.parametrize("found", [(0, False, True, True), (1, True, False, False)])
def test_deterministic_kernels_puts_back_what_it_found(found: Switches) -> None:
    set_switches(found)
    with deterministic_kernels(True, "cpu", path=PATH):
        assert switches() == (2, True, False, False)
    assert switches() == found


def test_deterministic_kernels_puts_back_what_it_found_when_the_block_fails() -> None:
    found = switches()
    with pytest.raises(KeyError, match="mine"), deterministic_kernels(True, "cpu", path=PATH):
        raise KeyError("mine")
    assert switches() == found


@pytest.mark.parametrize(("setting", "device_type"), [(False, "cpu"), (None, "cuda")])
def test_deterministic_kernels_leaves_the_process_alone_when_the_setting_means_false(
    setting: bool | None, device_type: str
) -> None:
    set_switches((1, False, True, True))
    with deterministic_kernels(setting, device_type, path=PATH):
        assert switches() == (1, False, True, True)


def test_deterministic_kernels_may_differ_between_phases_of_one_process() -> None:
    modes = []
    for setting in (True, False, None):
        with deterministic_kernels(setting, "cpu", path=PATH):
            modes.append(torch.get_deterministic_debug_mode())
    assert modes == [2, 0, 2]
    put()


@pytest.mark.parametrize(
    ("setting", "found"), [(True, "true"), (None, "null, which means true on CPUs")]
)
def test_deterministic_kernels_names_operation_and_setting_when_it_has_no_fixed_order(
    setting: bool | None, found: str
) -> None:
    with (
        pytest.raises(EngineError, match="no deterministic implementation of put_") as raised,
        deterministic_kernels(setting, "cpu", path=PATH),
    ):
        put()
    assert str(raised.value).startswith(f"{PATH} is {found}, and torch has")
    assert "set it to false" in str(raised.value)
    assert isinstance(raised.value.__cause__, RuntimeError)


class PutBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] + put(3)


def test_deterministic_kernels_names_the_operation_when_it_is_met_in_the_backward() -> None:
    values = torch.ones(3, requires_grad=True)
    loss: torch.Tensor = PutBackward.apply(values).sum()  # type: ignore[no-untyped-call]  # torch does not type it
    with (
        pytest.raises(EngineError, match="no deterministic implementation of put_"),
        deterministic_kernels(True, "cpu", path=PATH),
    ):
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it


def test_deterministic_kernels_passes_other_errors_on() -> None:
    with (
        pytest.raises(RuntimeError, match="size of tensor"),
        deterministic_kernels(True, "cpu", path=PATH),
    ):
        torch.ones(2) + torch.ones(3)


_INDUCTOR = """
import os, sys, torch
from phaseline.distributed.determinism import deterministic_kernels
with deterministic_kernels(True, "cpu", path=""):
    assert torch.get_deterministic_debug_mode() == 2
assert "torch._inductor" not in sys.modules and "torch._dynamo" not in sys.modules
assert "TORCHINDUCTOR_DETERMINISTIC" not in os.environ
with deterministic_kernels(True, "cpu", path=""):
    import torch._inductor.config as config
    assert config.deterministic
assert not config.deterministic
with deterministic_kernels(True, "cpu", path=""):
    assert config.deterministic
assert not config.deterministic
"""


def test_deterministic_kernels_reaches_inductor_without_importing_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INDUCTOR], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
