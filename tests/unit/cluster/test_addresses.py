from __future__ import annotations

import socket

import pytest

from phaseline.cluster.addresses import interface_towards, is_free, ports_of


@pytest.fixture
def taken() -> int:
    """A port that ports_of would give first, and that somebody else has."""
    return next(ports_of(4711))


def test_port_in_use_is_passed_over(taken: int) -> None:
    with socket.socket() as other:
        other.bind(("", taken))
        other.listen()
        assert not is_free(taken)
        assert next(ports_of(4711)) != taken
    assert is_free(taken)


def test_ports_differ_between_jobs_and_between_starts_of_a_job() -> None:
    first = {next(ports_of(job, restart)) for job in range(50) for restart in range(3)}
    assert len(first) > 100
    assert all(20000 <= port < 32000 for port in first)


def test_interface_is_the_one_of_the_route() -> None:
    assert interface_towards("127.0.0.1") == "lo"


def test_interface_is_unknown_when_the_host_is() -> None:
    assert interface_towards("no-such-host.invalid") is None
