"""Gradients, norms and updates of every engine against one process on the whole batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from distributed.engine_cases import (
    ENGINES,
    Case,
    engine_of,
    pieces,
    put_together,
    reference,
    train,
)
from distributed.ranks import run_ranks
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.errors import PhaselineError

pytestmark = pytest.mark.extended("every engine with every kind of hard model")

STEPS = 4
ZERO = [name for name in ENGINES if name != "plain"]
UPPER = ["zero1", "zero2", "zero3"]


def matrix(micro: int, accumulation: int) -> dict[str, Case]:
    """Every engine with and without clipping; SGD, whose first momentum is the gradient."""
    return {
        f"{engine}-{'clipped' if clip else 'free'}": Case(
            engine=engine, micro=micro, accumulation=accumulation, clip=clip, optimizer="sgd"
        )
        for engine in ENGINES
        for clip in (0.05, None)
    }


def special() -> dict[str, Case]:
    """What is hard, each once, on 2 ranks."""
    cases = {f"{name}-adamw": Case(engine=name) for name in ENGINES}
    cases |= {f"{name}-alternate": Case(engine=name, uses="alternate") for name in ENGINES}
    cases |= {f"{name}-micro": Case(engine=name, uses="micro") for name in ENGINES}
    cases |= {f"{name}-rank": Case(engine=name, uses="rank") for name in list(ENGINES)[:4]}
    cases |= {f"{name}-offload": Case(engine=name, offload="optimizer") for name in UPPER}
    cases |= {
        f"{name}-offload-alternate": Case(engine=name, offload="optimizer", uses="alternate")
        for name in UPPER
    }
    cases |= {
        f"{name}-routed": Case(
            engine=name,
            model="routed",
            settings={"unused_parameters": name in ("zero1", "zero2")},
        )
        for name in ENGINES
    }
    return cases


def outcome(case: Case, world: World) -> dict[str, Any]:
    engine = engine_of(case, world)
    norms = train(engine, case, world, range(1))
    gradients = pieces(engine, "momentum_buffer")
    norms += train(engine, case, world, range(1, STEPS))
    found = {"norms": norms, "gradients": gradients, "weights": pieces(engine)}
    engine.close()
    return found


def skipped(name: str, precision: str, world: World) -> dict[str, Any]:
    """A step whose gradient is not finite, between two that are."""
    case = Case(engine=name, precision=precision)
    engine = engine_of(case, world)
    train(engine, case, world, range(1))
    before = [pieces(engine), pieces(engine, "exp_avg"), numbers(engine)]
    norms = train(engine, case, world, [1], poison=float("nan"))
    after = [pieces(engine), pieces(engine, "exp_avg"), numbers(engine)]
    goes_on = train(engine, case, world, [2])
    engine.close()
    return {"norm": str(norms[0]), "same": before == after, "next": goes_on[0]}


def numbers(engine: Any) -> list[Any]:
    return [fragment.scalars() for fragment in engine.state_fragments()]


def refused(name: str, world: World) -> str:
    case = Case(engine=name, settings={"unused_parameters": False})
    engine = engine_of(case, world)
    try:
        train(engine, case, world, range(1))
    except PhaselineError as error:
        return str(error)
    finally:
        engine.close()
    return "nothing was raised"


def start() -> World:
    environment = RankEnvironment.read()
    return World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=60)


def layout(micro: int, accumulation: int) -> dict[str, Any]:
    world = start()
    found = {key: outcome(case, world) for key, case in matrix(micro, accumulation).items()}
    world.close()
    return found


def two_ranks() -> dict[str, Any]:
    world = start()
    found: dict[str, Any] = {
        key: outcome(case, world) for key, case in {**matrix(2, 2), **special()}.items()
    }
    found["skipped"] = {
        f"{name}-{precision}": skipped(name, precision, world)
        for name in ENGINES
        for precision in ("fp32", "bf16")
    }
    found["refused"] = {name: refused(name, world) for name in UPPER}
    found["bf16"] = {
        name: outcome(Case(engine=name, precision="bf16", clip=None), world) for name in ENGINES
    }
    found["afterwards"] = {
        f"{before}>{name}": after_another(before, name, world)
        for before in ENGINES
        for name in ENGINES
    }
    world.close()
    return found


def after_another(before: str, name: str, world: World) -> dict[str, Any]:
    """An engine's numbers, when the process had another engine before."""
    case = Case(engine=before, optimizer="sgd")
    engine = engine_of(case, world, seed=3)
    train(engine, case, world, range(1))
    engine.close()
    case = Case(engine=name)
    engine = engine_of(case, world)
    found = {"norms": train(engine, case, world, range(2)), "weights": pieces(engine)}
    engine.close()
    return found


@pytest.fixture(scope="module")
def facts() -> list[dict[str, Any]]:
    return run_ranks(two_ranks, 2, timeout_s=400)


@cache
def expected(case_key: str, micro: int, accumulation: int, world_size: int) -> Any:
    cases = {**matrix(micro, accumulation), **(special() if world_size == 2 else {})}
    return reference(cases[case_key], world_size, STEPS)


def require_equal(ranks: list[dict[str, Any]], key: str, micro: int, accumulation: int) -> None:
    norms, weights, gradients = expected(key, micro, accumulation, len(ranks))
    for rank in ranks:
        assert rank[key]["norms"] == pytest.approx(norms, rel=1e-5)
    found = put_together([rank[key]["gradients"] for rank in ranks])
    for name, values in found.items():
        assert_close(name, values, gradients[name])
    found = put_together([rank[key]["weights"] for rank in ranks])
    assert found.keys() == weights.keys()
    for name, values in found.items():
        assert_close(name, values, weights[name])


def assert_close(name: str, values: list[float], wanted: list[float], rel: float = 1e-5) -> None:
    found, right = torch.tensor(values), torch.tensor(wanted)
    assert found.shape == right.shape, name
    assert float((found - right).abs().max()) <= rel * max(float(right.abs().max()), 1e-3), name


@pytest.mark.parametrize("key", matrix(2, 2))
def test_engine_equals_one_process_on_the_whole_batch_when_it_is_two_by_two_by_two(
    facts: list[dict[str, Any]], key: str
) -> None:
    require_equal(facts, key, 2, 2)


@pytest.mark.parametrize("key", special())
def test_engine_equals_one_process_on_the_whole_batch_when_the_model_is_hard(
    facts: list[dict[str, Any]], key: str
) -> None:
    require_equal(facts, key, 2, 2)


@pytest.mark.nightly
@pytest.mark.parametrize("key", matrix(2, 2))
@pytest.mark.parametrize(("micro", "accumulation", "ranks"), [(8, 1, 1), (2, 4, 1), (1, 2, 4)])
def test_engine_equals_one_process_on_the_whole_batch_in_every_layout(
    key: str, micro: int, accumulation: int, ranks: int
) -> None:
    require_equal(layouts(micro, accumulation, ranks), key, micro, accumulation)


@cache
def layouts(micro: int, accumulation: int, ranks: int) -> list[dict[str, Any]]:
    return run_ranks(layout, ranks, micro, accumulation, timeout_s=400)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ENGINES)
def test_step_is_left_out_on_every_rank_when_one_has_a_gradient_that_is_not_finite(
    facts: list[dict[str, Any]], name: str, precision: str
) -> None:
    for rank in facts:
        found = rank["skipped"][f"{name}-{precision}"]
        assert found["norm"] in ("inf", "nan")
        assert found["same"]
        assert 0 < found["next"] < 100


@pytest.mark.parametrize("name", UPPER)
def test_parameters_without_gradient_are_refused_by_name_when_they_are_not_expected(
    facts: list[dict[str, Any]], name: str
) -> None:
    for rank in facts:
        assert "2 trained parameter(s) got no gradient" in rank["refused"][name]
        assert "never.weight, never.bias" in rank["refused"][name]
        assert "engine.unused_parameters" in rank["refused"][name]


@pytest.mark.parametrize("name", ENGINES)
def test_engine_is_near_fp32_when_it_computes_in_bf16(
    facts: list[dict[str, Any]], name: str
) -> None:
    norms, weights, _ = reference(Case(engine=name, clip=None), 2, STEPS)
    assert facts[0]["bf16"][name]["norms"] == pytest.approx(norms, rel=2e-2)
    found = put_together([rank["bf16"][name]["weights"] for rank in facts])
    for parameter, values in found.items():
        if name == "plain" or parameter != "frozen":
            # The fp32 weights of step 0 were not rounded: one step moves less than bf16 tells.
            assert_close(parameter, values, weights[parameter], rel=2e-2)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("before", ENGINES)
def test_engine_has_the_same_bits_whatever_engine_its_process_had_before(
    facts: list[dict[str, Any]], before: str, name: str
) -> None:
    for rank in facts:
        assert rank["afterwards"][f"{before}>{name}"] == rank["afterwards"][f"plain>{name}"]
        norms = rank[f"{name}-adamw"]["norms"][:2]
        assert rank["afterwards"][f"{before}>{name}"]["norms"] == norms
