"""The comparison with other tools: its table, and its questions to a callback of this package."""

from pathlib import Path

import pytest
import torch

from benchmarks.peers import checks, job, lightning_tools, table
from benchmarks.peers.environment import last_of
from benchmarks.peers.job import Network, Outcome, Plan, weights_of

EQUAL = {"difference": 0.0, "masks": 0}
ANSWERS = {
    "sparse": {
        "layers": ["third", "last"],
        "density": 0.1,
        "accuracy": 0.5,
        "middle": {"missing": ["last.weight"], "unexpected": ["a", "b"]},
        "finished": {"missing": [], "unexpected": []},
    },
    "resume": {**EQUAL, "density": 0.1, "notes": ["said"], "twice": EQUAL},
    "ddp": {"ranks": EQUAL, "joint": {"difference": 0.5, "masks": 1200}},
    "average": {"failed": "RuntimeError: sizes"},
    "compile": {"graphs": 1, "breaks": 2, "error": 1e-12},
    "scaler": {
        "due": {"changed": 3, "finite": True, "density": 0.1},
        "other": {"failed": "RuntimeError: sizes"},
    },
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole job in a few steps."""
    monkeypatch.setattr(lightning_tools, "EVERY", 2)
    monkeypatch.setattr(job, "EPOCH", 2)


def test_a_row_says_what_was_answered_and_errors_stand_below() -> None:
    lines = table.table({"tool": ANSWERS, "other": {"pip": {"failed": "no such thing"}}})
    names = [cell.strip() for cell in lines[0].strip("|").split("|")]
    row, absent = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4])
    assert len(row) == len(names) == len(absent)
    assert dict(zip(names, row, strict=True)) == {
        "tool": "tool",
        "sparse layers": "all but first, second",
        "density": "0.1000",
        "accuracy": "0.500",
        "resumed run": "equal [1]",
        "DDP, the two ranks": "equal",
        "DDP, one process with both batches": "differ by 0.5, 1,200 weights in one only",
        "density of the average": "error [2]",
        "torch.compile": "1 graph, 2 breaks; follows the masks",
        "skipped step in which masks change": "changes 3 weights",
        "another skipped step": "error [2]",
        "a plain network loads the checkpoint": "no: 1 keys missing, 2 unexpected",
        "and the finished network": "yes",
    }
    assert absent[1] == "not installed [3]"
    assert lines[4:] == ["", "1. said", "2. RuntimeError: sizes", "3. pip: no such thing"]


def test_what_was_not_asked_is_called_so() -> None:
    (row,) = table.table({"tool": {"average": {"density": 0.25}}})[2:]
    assert row.count("not asked") == 11
    assert "0.2500" in row


@pytest.mark.parametrize(
    ("off", "masks", "words"),
    [
        (0.0, 0, "equal"),
        (2e-15, 0, "equal to 2e-15"),
        (0.25, 0, "differ by 0.25, same masks"),
        (0.0, 7, "differ by 0, 7 weights in one only"),
    ],
)
def test_networks_are_compared_in_words(off: float, masks: int, words: str) -> None:
    assert table.same({"difference": off, "masks": masks}) == words


def test_a_second_resume_is_mentioned_if_it_is_another_result() -> None:
    resumed = {**EQUAL, "density": 0.1, "notes": []}
    other = {"difference": 1.0, "masks": 2}
    cell = table._resumed({**resumed, "twice": other}, table.Notes())
    assert cell == "equal; resumed twice: differ by 1, 2 weights in one only"
    assert table._resumed({**resumed, "twice": EQUAL}, table.Notes()) == "equal"


def test_a_resumed_run_of_a_callback_is_equal_and_has_the_density(
    short: None, tmp_path: Path
) -> None:
    answer = checks.resume("RigL", tmp_path)
    assert answer["difference"] == answer["masks"] == 0
    assert answer["twice"] == EQUAL
    assert answer["density"] == pytest.approx(job.DENSITY, abs=1e-3)


def test_the_other_questions_to_a_callback(short: None, tmp_path: Path) -> None:
    answer = checks.sparse("GradualPruning", tmp_path)
    assert answer["density"] == pytest.approx(job.DENSITY, abs=1e-3)
    assert answer["middle"] == answer["finished"] == {"missing": [], "unexpected": []}
    average = checks.average("GradualPruning", tmp_path)
    assert average["density"] == pytest.approx(job.DENSITY, abs=1e-3)


def test_one_graph_follows_the_masks_of_a_callback(
    short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERS_BACKEND", "eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    answer = checks.compiled("RigL", tmp_path)
    assert (answer["graphs"], answer["breaks"]) == (1, 0)
    assert answer["error"] < table.ROUNDING


def test_an_error_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, folder: Path) -> checks.Answer:
        raise ValueError("no\nsecond line")

    monkeypatch.setitem(checks.CHECKS, "broken", fails)
    assert checks.answer("RigL", "broken")["failed"] == "ValueError: no second line"


def test_differences_and_densities_are_counted() -> None:
    one = {name: torch.zeros(4) for name in job.SPARSE_LAYERS}
    two = {**one, "last": torch.tensor([0.0, -2.0, 0.5, 0.0])}
    assert checks.difference(one, two) == {"difference": 2.0, "masks": 2}
    assert checks.density(two, ("third", "last")) == 2 / 8


def test_a_mask_that_waits_for_the_next_forward_pass_counts() -> None:
    network = Network()
    torch.nn.utils.prune.l1_unstructured(network.last, "weight", amount=0.75)
    with torch.no_grad():
        network.last.weight_orig.add_(1)  # `weight` is the old product until a forward pass
    expected = network.last.weight_orig * network.last.weight_mask
    assert torch.equal(weights_of(network)["last"], expected)


def test_ranks_share_a_batch_and_a_stale_graph_would_be_seen() -> None:
    whole = job.batches(Plan())[3]
    halves = [job.batches(Plan(rank=rank, world=2))[3] for rank in (0, 1)]
    for part in (0, 1):
        together = torch.cat([half[part] for half in halves])
        assert torch.equal(together.sort(0).values, whole[part].sort(0).values)
    network = job.new_network(Plan())
    outcome = Outcome(weights_of(network), {})
    job.look_at_compiled(network, outcome, Plan())
    assert outcome.compiled_error == 0
    outcome.weights["last"] = outcome.weights["last"] * 0
    job.look_at_compiled(network, outcome, Plan())
    assert outcome.compiled_error > 1e-3


def test_messages_are_one_line() -> None:
    assert last_of("Trace\n  more\nERROR: it\n\n") == "ERROR: it"
    assert last_of("") == ""
    assert checks.in_short(RuntimeError("one\n two\nthree")) == "RuntimeError: one two"
