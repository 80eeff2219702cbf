"""A cluster for all tests of this folder, and sessions that nobody interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.launched import launch
from slurm.cluster import Cluster, NotInstalledError, why_impossible
from slurm.jobs import HERE, ONE_PHASE, TWO_PHASES, Submitter

Smooth = Callable[[int], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs SLURM; the plain test run leaves it out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        problem = why_impossible()
        if not problem:
            cluster.start()
    except NotInstalledError as error:
        problem = str(error)
    if problem:
        pytest.skip(f"needs SLURM: {problem}")
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with every node up and nothing running."""
    running_cluster.wait_idle()
    yield running_cluster
    running_cluster.client("scancel", "--user=root")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm-cache")


@pytest.fixture
def submitter(cluster: Cluster, cache: Path) -> Submitter:
    return Submitter(cluster, cache)


@pytest.fixture(scope="session")
def smooth(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Smooth:
    """Gives the finished session of a number of ranks, which ran through without SLURM."""
    folder = tmp_path_factory.mktemp("smooth")

    def run(num_ranks: int) -> Path:
        session = folder / str(num_ranks)
        if not session.exists():
            launched = launch(
                TWO_PHASES if num_ranks == 4 else ONE_PHASE,
                session,
                *("--processes", str(num_ranks), "-o", "cluster.nodes=1"),
                log=folder / f"{num_ranks}.log",
                variables={
                    "PHASELINE_CACHE": str(cache),
                    "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",
                },
            )
            assert launched.wait() == 0, launched.output
        return session

    return run
