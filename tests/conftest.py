"""Fixtures that every test has: each fails the test that leaves something behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

_TESTS = Path(__file__).parent
_ALONE = (_TESTS / "distributed", _TESTS / "integration")

# Set by libraries when they are imported or first used, once and for the whole process.
_ENVIRONMENT_OF_LIBRARIES = (
    "CUDA_MODULE_LOADING",
    "KMP_",
    "PYTEST_",
    "PYTORCH_",
    "TORCHINDUCTOR_",
    "TORCH_NCCL_",
    "TRITON_",
)
_THREADS_OF_LIBRARIES = ("tqdm", "pytest_timeout", "execnet", "otel")
_CHILDREN_OF_LIBRARIES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
_GRACE_S = 2.0


hypothesis.settings.register_profile(
    # What an example takes says how busy the machine is.
    "any machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    """Hears Ctrl-C also where a shell started the tests in the background.

    Such a shell has SIGINT ignored, every process below inherits that, and a launcher under
    test would rightly leave it so.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts ranks, so that it runs alone; what starts one leaves room for others.

    What `make test` leaves out must say why.
    """
    for item in items:
        extended = item.get_closest_marker("extended")
        if extended is not None and not extended.args:
            raise pytest.UsageError(f"{item.nodeid}: `extended` wants the reason for its time")
        is_below = any(folder in item.path.parents for folder in _ALONE)
        if is_below and item.get_closest_marker("one_rank") is None:
            item.add_marker(pytest.mark.distributed)


@pytest.fixture(autouse=True)
def no_environment_leak() -> Iterator[None]:
    """Fails a test that leaves environment variables changed, and puts them back."""
    before = _environment()
    yield
    after = _environment()
    if after == before:
        return
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    pytest.fail(f"left environment variables changed: {', '.join(changed)}")


@pytest.fixture(autouse=True)
def no_thread_leak() -> Iterator[None]:
    """Fails a test after which a thread that it started still runs."""
    before = set(threading.enumerate())
    yield
    leaked = []
    for thread in set(threading.enumerate()) - before:
        if thread.name.lower().startswith(_THREADS_OF_LIBRARIES):
            continue
        thread.join(_GRACE_S)
        if thread.is_alive():
            leaked.append(thread.name)
    if leaked:
        pytest.fail(f"left threads running: {', '.join(sorted(leaked))}")


@pytest.fixture(autouse=True)
def no_child_leak() -> Iterator[None]:
    """Fails a test after which a process that it started still runs, and kills that."""
    before = set(psutil.Process().children())
    yield
    leaked = []
    for child in set(psutil.Process().children()) - before:
        try:
            command = " ".join(child.cmdline())
            if not command or any(name in command for name in _CHILDREN_OF_LIBRARIES):
                continue  # without a command line it has ended, and waits to be reaped
            child.wait(_GRACE_S)
        except psutil.TimeoutExpired:
            child.kill()
            leaked.append(command)
        except psutil.NoSuchProcess:
            continue
    if leaked:
        pytest.fail(f"left processes running: {'; '.join(sorted(leaked))}")


@pytest.fixture(autouse=True)
def no_process_group_leak() -> Iterator[None]:
    """Fails a test that leaves a default process group, and destroys that."""
    yield
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is None or not torch_distributed.is_available():
        return
    if torch_distributed.is_initialized():
        torch_distributed.destroy_process_group()
        pytest.fail("left a process group initialised")


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_ENVIRONMENT_OF_LIBRARIES)
    }
