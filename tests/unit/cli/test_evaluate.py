"""Real tasks of lm-eval on a real phase; without the extra, that it is asked for."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.cli import main
from phaseline.errors import ExitCode, UsageError
from phaseline.training.pipeline.task_evaluation import results_of
from phaseline.training.pipeline.trained_phase import TrainedPhase
from unit.training.pipeline.adapter_session import Place
from unit.training.pipeline.taught_session import make

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs the extra lm-eval"
)
EXAMPLES: list[dict[str, Any]] = [
    {"q": "word1 ", "choices": ["word2", "word3 word"], "gold": 0},
    {"q": "word4 word", "choices": ["5", "zzz"], "gold": 0},
    {"q": "w", "choices": ["qqq", "ord1"], "gold": 0},
]
CHOOSING = """\
task: choosing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 2.0}}
"""
ROLLING = """\
task: rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{q}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
WRITING = """\
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "never"
generation_kwargs: {{until: [" "], max_gen_toks: 5, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = make(tmp_path_factory.mktemp("evaluated"))
    data = place.folder / "examples.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    for folder, texts in (("tasks", [CHOOSING, ROLLING]), ("writing", [WRITING])):
        (place.folder / folder).mkdir()
        for text in texts:
            name = text.split()[1]
            (place.folder / folder / f"{name}.yaml").write_text(text.format(data=data))
    (place.folder / "empty").mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.enter(monkeypatch)
        monkeypatch.setenv("HF_DATASETS_CACHE", str(place.folder / "datasets"))
        monkeypatch.setenv("HF_XET_HIGH_PERFORMANCE", "1")  # lm-eval sets it when it is imported
        assert place.run("whole").code is ExitCode.FINISHED
        yield place


def evaluate(place: Place, *words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(place.layout().root), *words])
    return int(end.value.code or 0)


def written(place: Place, phase: str, step: int, name: str) -> Any:
    folder = place.layout().evaluations_dir / phase / f"step-{step:08d}"
    return json.loads((folder / f"{name}.json").read_text())


def log_probability(model: Any, given: list[int], wanted: list[int]) -> float:
    ids = torch.tensor([given + wanted])
    with torch.no_grad():
        scores = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
    return sum(float(scores[len(given) - 1 + idx, token]) for idx, token in enumerate(wanted))


@pytest.mark.extended("lm-eval is installed for it")
@needs_lm_eval
def test_folder_of_tasks_is_run_and_the_numbers_are_those_taken_by_hand(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place, "--tasks", "tasks", "--phase", "first", "--batch-size", "2") == 0
    trained = TrainedPhase.find(place.layout().root, "first")
    model, encode = trained.load_model(torch.device("cpu")), trained.tokenizer.encode
    hits = 0
    for example in EXAMPLES:
        whole = [example["q"] + choice for choice in example["choices"]]
        head = encode(example["q"].rstrip())
        scores = [log_probability(model, head, encode(text)[len(head) :]) for text in whole]
        hits += scores.index(max(scores)) == example["gold"]
    total = sum(
        log_probability(model, [trained.tokenizer.eos_id], encode(example["q"]))
        for example in EXAMPLES
    )
    num_bytes = sum(len(example["q"]) for example in EXAMPLES)
    chosen = written(place, "first", 3, "choosing")
    assert chosen["metrics"]["acc"]["value"] == hits / 3
    assert chosen["metrics"]["acc"]["stderr"] is not None
    assert (chosen["num_examples"], chosen["limit"], chosen["task_version"]) == (3, None, "2.0")
    assert (chosen["phase"], chosen["phase_step"], chosen["global_step"]) == ("first", 3, 3)
    assert (place.layout().root / chosen["checkpoint"] / "manifest.json").is_file()
    rolled = written(place, "first", 3, "rolling")["metrics"]["bits_per_byte"]["value"]
    assert rolled == pytest.approx(-total / num_bytes / math.log(2), rel=1e-5)
    output = capsys.readouterr().out
    assert "first at step 3" in output
    assert f"{hits / 3:.4f}" in output
    assert f"{rolled:.4f}" in output


@pytest.mark.extended("lm-eval is installed for it")
@needs_lm_eval
def test_task_that_has_the_model_write_is_run_from_one_file(place: Place) -> None:
    assert evaluate(place, "--tasks", "writing/writing.yaml") == 0
    found = written(place, "second", 4, "writing")
    assert found["metrics"]["exact_match"]["value"] == 0.0


@pytest.mark.extended("lm-eval is installed for it")
@needs_lm_eval
def test_part_of_a_task_is_kept_beside_the_whole(place: Place) -> None:
    assert evaluate(place, "--tasks", "tasks/choosing.yaml", "--limit", "2", "--step", "3") == 0
    assert written(place, "second", 3, "choosing.limit-2")["num_examples"] == 2


@pytest.mark.extended("lm-eval is installed for it")
@needs_lm_eval
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tasks", "empty"], "names the folder empty, which has no task"),
        (["--tasks", "tasks", "--best", "--step", "1"], "both say which checkpoint"),
        (["--tasks", "tasks", "--phase", "third"], "has the phases first, second"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_words(
    place: Place, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place, *words) == ExitCode.USAGE
    assert expected in capsys.readouterr().err


@pytest.mark.extended("lm-eval is installed for it")
@needs_lm_eval
def test_name_of_no_task_is_refused_with_the_one_that_was_meant(place: Place) -> None:
    # Not through the command: reading all that lm-eval brings takes half a minute.
    from phaseline.training.pipeline.lm_eval_model import _require_known

    _require_known("hellaswag", ["hellaswag", "mmlu"])
    with pytest.raises(UsageError, match=r"no task of lm-eval\. Did you mean hellaswag"):
        _require_known("hellaswga", ["hellaswag", "mmlu"])


def test_extra_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phaseline.training.pipeline.task_evaluation.find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(tmp_path), "--tasks", "tasks"])
    assert end.value.code == ExitCode.USAGE
    assert "pip install 'phaseline[lm-eval]'" in capsys.readouterr().err


def test_results_keep_the_filter_of_answers_and_no_number_that_is_none() -> None:
    found = {
        "results": {
            "sums": {
                "alias": "sums",
                "sample_len": 4,
                "exact_match,strict": 0.5,
                "exact_match_stderr,strict": 0.25,
                "exact_match,loose": math.nan,
                "exact_match_stderr,loose": "N/A",
            }
        },
        "n-samples": {"sums": {"original": 9, "effective": 4}},
    }
    first, second = results_of(found)
    assert (first.metric, first.value, first.stderr) == ("exact_match,strict", 0.5, 0.25)
    assert (second.metric, second.value, second.stderr) == ("exact_match,loose", None, None)
    assert first.num_examples == 4
