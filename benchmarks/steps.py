"""Training steps of several networks, timed in random order, and the ratios of their times."""

import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import synchronize
from wiring_lightning.nn import find_gates
from wiring_lightning.optim import GateSGD

Step = Callable[[], None]


def training_step(network: nn.Module, images: Tensor, labels: Tensor, amp: bool = False) -> Step:
    """Forward, backward, SGD with momentum; and the update and draw of gates that still learn."""
    gates = [gate for gate in find_gates(network).values() if gate.learnable]
    scores = {id(gate.scores) for gate in find_gates(network).values()}
    weights = [p for p in network.parameters() if id(p) not in scores]
    optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=5e-4)
    gate_optimizer = GateSGD(gates) if gates else None

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        if gate_optimizer is not None:
            gate_optimizer.step()
            gate_optimizer.zero_grad()

    return step


def time_steps(
    steps: dict[str, Step],
    rounds: int,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
    turn: float = 0.0,
) -> dict[str, list[float]]:
    """Milliseconds of every step, `rounds` times each, after two warm-up rounds.

    Per round every network has one turn, so that a machine that slows down slows all; in another
    order every round, so that what a step leaves in the caches favours no network. In its turn it
    takes one step, or as many as begin within `turn` seconds, and their mean counts.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for number in _progress(rounds + 2):
        for name in order.sample(list(steps), len(steps)):
            synchronize(device)
            start, taken, passed = clock(), 0, 0.0
            while taken == 0 or passed < turn:
                steps[name]()
                synchronize(device)
                taken, passed = taken + 1, clock() - start
            if number >= 2:
                times[name].append(passed / taken * 1e3)
    return times


def ratio(times: Sequence[float], others: Sequence[float] | None) -> str:
    """Median of the ratios within a round, with its 95 % interval (from 6 rounds on).

    The interval goes from one order statistic to another, so it assumes nothing about the
    distribution of the ratios (it inverts the sign test).
    """
    if others is None:
        return "-"
    ratios = sorted(a / b for a, b in zip(times, others, strict=True))
    # By the binomial distribution, the true median is below this rank in at most 2.5 % of runs.
    tails = accumulate(math.comb(len(ratios), below) for below in range(len(ratios)))
    rank = max(1, sum(tail <= 0.025 * 2 ** len(ratios) for tail in tails))
    low, high = ratios[rank - 1], ratios[-rank]
    return f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"


def caption(rounds: int) -> str:
    """A sentence that explains the output of `ratio`."""
    return f"Median of the ratios within a round (95 % interval of the median), {rounds} rounds."


def peak_memory(step: Step, device: str) -> float:
    """The peak memory of tensors during a step, in MiB."""
    step()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    gc.collect()  # what is released meanwhile would count as less
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    # Bytes of every allocation and release, in the order of time.
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def top_operators(step: Step, device: str, count: int = 10) -> list[str]:
    """The slowest operators of a step, as a table in Markdown."""
    step()
    on_gpu = device != "cpu"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(3):
            step()
        synchronize(device)
    events = profiler.key_averages(group_by_input_shape=True)
    own = [e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events]
    ranked = sorted(zip(own, events, strict=True), key=lambda pair: -pair[0])[:count]
    lines = ["| share | operator | shapes |", "| --- | --- | --- |"]
    for spent, event in ranked:
        shapes = [shape for shape in event.input_shapes if shape][:2]
        lines.append(f"| {spent / sum(own):.1%} | {event.key[:60]} | {shapes} |")
    return lines


def _progress(rounds: int) -> Iterator[int]:
    for number in range(rounds):
        if sys.stderr.isatty():
            sys.stderr.write(f"\rround {number + 1} of {rounds} ")
        yield number
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 30 + "\r")
