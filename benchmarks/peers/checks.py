"""One question to one tool, answered in this process.

    python -m benchmarks.peers.checks RigL resume

The answer is one line of JSON, the last of what is printed. An error is an answer, too.
"""

import importlib
import json
import logging
import os
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from benchmarks.peers.job import SPARSE_LAYERS, Network, Outcome, Plan

Answer = dict[str, Any]
_LONGEST = 200  # characters of an error


class Tool(Protocol):
    """What runs the job once."""

    layers: tuple[str, ...]

    def run(self) -> Outcome:
        """Do the job."""
        ...


LOOPS, CALLBACKS = (f"benchmarks.peers.{name}_tools" for name in ("loop", "lightning"))
TOOLS = {
    "rigl-torch": (LOOPS, "RigLTorch"),
    "sparsimony": (LOOPS, "Sparsimony"),
    "torch.ao.pruning": (LOOPS, "TorchPruning"),
    "torchao": (LOOPS, "TorchAO"),
    "ModelPruning": (CALLBACKS, "Pruning"),
    "ModelPruning, kept": (CALLBACKS, "PruningKept"),
    "RigL": (CALLBACKS, "OurRigL"),
    "GradualPruning": (CALLBACKS, "OurGradualPruning"),
    "PruneAtStart": (CALLBACKS, "OurPruneAtStart"),
}


def find_tool(name: str, plan: Plan) -> Tool:
    """The tool of this name; only its own file is imported."""
    module, attribute = TOOLS[name]
    made: Tool = getattr(importlib.import_module(module), attribute)(plan)
    return made


def sparse(name: str, folder: Path) -> Answer:
    """The final density, and what a plain network makes of the checkpoints."""
    tool = find_tool(name, Plan(save=folder / "middle.ckpt"))
    outcome = tool.run()
    return {
        "layers": list(tool.layers),
        "density": density(outcome.weights, tool.layers),
        "accuracy": outcome.accuracy,
        "middle": keys(outcome.state),
        "finished": keys(outcome.finished),
        "finished_density": density(plain_weights(outcome.finished), tool.layers),
    }


def resume(name: str, folder: Path) -> Answer:
    """A run that was resumed, and one that was resumed twice, against the whole one."""
    middle, later = folder / "middle.ckpt", folder / "later.ckpt"
    whole = find_tool(name, Plan(save=middle)).run()
    tool = find_tool(name, Plan(resume=middle, save=later, save_epoch=4))
    second = tool.run()
    answer = {
        **difference(whole.weights, second.weights),
        "density": density(second.weights, tool.layers),
        "notes": second.notes,
    }
    third = find_tool(name, Plan(resume=later, resume_epoch=4)).run()
    return {**answer, "twice": difference(whole.weights, third.weights)}


def ddp(name: str, folder: Path) -> Answer:
    """Two processes against each other, and against one with their batches together."""
    _two_processes(name, folder)
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
    tool = find_tool(name, Plan())
    return {
        "ranks": difference(*ranks),
        "joint": difference(tool.run().weights, ranks[0]),
        "density": density(ranks[0], tool.layers),
    }


def average(name: str, _: Path) -> Answer:
    """The density of an average of the weights (decay 0.9) beside the network's own."""
    tool = find_tool(name, Plan(average=True))
    outcome = tool.run()
    assert outcome.average is not None
    return {"density": density(outcome.average, tool.layers)}


def compiled(name: str, _: Path) -> Answer:
    """Graphs that `torch.compile` made in a training, and whether the last one is right."""
    outcome = find_tool(name, Plan(backend=os.environ.get("PEERS_BACKEND", "aot_eager"))).run()
    return {
        "graphs": outcome.graphs,
        "breaks": outcome.breaks,
        "error": outcome.compiled_error,
    }


def scaler(name: str, _: Path) -> Answer:
    """What a step with infinite gradients changes, at a change of the masks and elsewhere."""
    answer: Answer = {}
    for kind, step in (("due", 19), ("other", 24)):
        tool = find_tool(name, Plan(skip=step))
        try:
            outcome = tool.run()
        except Exception as error:
            answer[kind] = {"failed": in_short(error)}
            continue
        finite = all(bool(weight.isfinite().all()) for weight in outcome.weights.values())
        answer[kind] = {
            "changed": outcome.skipped,
            "finite": finite,
            "density": density(outcome.weights, tool.layers),
        }
    return answer


CHECKS: dict[str, Callable[[str, Path], Answer]] = {
    "sparse": sparse,
    "resume": resume,
    "ddp": ddp,
    "average": average,
    "compile": compiled,
    "scaler": scaler,
}


def density(weights: Mapping[str, Tensor], layers: tuple[str, ...]) -> float:
    """The share of weights that are not zero."""
    chosen = [weights[name] for name in layers if name in weights]
    total = sum(weight.numel() for weight in chosen)
    return sum(int((weight != 0).sum()) for weight in chosen) / total if total else float("nan")


def difference(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> Answer:
    """The largest difference of weights, and how many are there in one network only."""
    pairs = [(one[name], two[name]) for name in SPARSE_LAYERS]
    return {
        "difference": max(float((a - b).abs().max()) for a, b in pairs),
        "masks": sum(int(((a != 0) != (b != 0)).sum()) for a, b in pairs),
    }


def keys(state: Mapping[str, Tensor]) -> Answer:
    """What a plain network says of a checkpoint."""
    plain = Network().state_dict().keys()
    return {
        "missing": sorted(plain - state.keys()),
        "unexpected": sorted(state.keys() - plain),
    }


def plain_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that a plain network finds in a checkpoint."""
    return {name: state[f"{name}.weight"] for name in SPARSE_LAYERS if f"{name}.weight" in state}


def _two_processes(name: str, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank, (name, str(folder), port), nprocs=2, start_method="spawn"
    )


def _rank(rank: int, name: str, folder: str, port: int) -> None:
    _quiet()
    os.environ.update({"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2",
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                       "NODE_RANK": "0"})  # fmt: skip
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    outcome = find_tool(name, Plan(rank=rank, world=2)).run()
    torch.save(outcome.weights, Path(folder) / f"rank{rank}.pt")


def in_short(error: BaseException) -> str:
    """Class and first lines of an exception; for a process that failed, its own error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    own = type(error).__name__
    if own == "ProcessRaisedException":
        own = next((line for line in reversed(lines) if "Error" in line.split(":")[0]), lines[-1])
        return own.rpartition(".")[2] if "." in own.split(":")[0] else own
    return f"{own}: {' '.join(lines[:2])}"[:_LONGEST]


def _quiet() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def answer(name: str, check: str) -> Answer:
    """The answer, or the error under `failed`."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = CHECKS[check](name, Path(folder))
        except Exception as error:
            if os.environ.get("PEERS_TRACE"):
                raise
            found = {"failed": in_short(error)}
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


if __name__ == "__main__":
    _quiet()
    print(json.dumps(answer(sys.argv[1], sys.argv[2])))
