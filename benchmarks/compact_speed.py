"""Inference time of compact networks, as ratios from one run.

    python -m benchmarks.compact_speed --markdown results/compact_speed.md
    python -m benchmarks.compact_speed --only ResNeXt --batch 8 --rounds 31
    python -m benchmarks.compact_speed --compile --only "ResNet Fabric"

A compact ResNeXt is compared with the compact form of the plain ResNeXt of the same shape. Any
other one, and a ResNeXt for tiny images, is compared with the network that it came from; a fabric
with all of its edges. Wirings are random: the time depends on them only through what is dead. Per
round every network has a turn, in random order, in which it is called again and again for 100 ms:
in the first call its weights are in no cache, after those of the others.

- compact: `compact()`; where the other network is a plain ResNeXt, it is compacted so, too
- folded:  `compact(fold_batch_norm=True)`, likewise
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compact_networks import Pair, make, pairs
from benchmarks.machine import describe, keep_freed_memory
from benchmarks.steps import Step, caption, ratio, time_steps

_COLUMNS = ["network", "batch", "live", "at most", "compact", "folded", "ms", "parameters"]


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    title = "# Inference time of compact networks"
    if options.compile:
        title += " under torch.compile"
    lines = [title, "", _machine(options), ""]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    print("\n".join(lines), flush=True)
    for name, pair in pairs(options.small).items():
        if not any(word in name for word in options.only):
            continue
        network = make(pair.make, options.seed)
        for batch in options.batch:
            lines.append(_row(name, pair, network, batch, options))
            print(lines[-1], flush=True)
    lines += ["", caption(options.rounds), *_explanation(options)]
    print("\n".join(lines[-4:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, pair: Pair, network: nn.Module, batch: int, options: argparse.Namespace) -> str:
    torch.compiler.reset()  # a forward method that was compiled eight times is not compiled again
    share, most = pair.target(network)
    whole = network if pair.whole is None else make(pair.whole, options.seed)
    forms = {"compact": _compact(network, False), "folded": _compact(network, True)}
    others = {"compact": whole, "folded": whole}
    if pair.both_compact:
        others = {"compact": _compact(whole, False), "folded": _compact(whole, True)}
    side = pair.side or options.side
    images = torch.randn(batch, 3, side, side)
    _check(network, forms, images)
    steps: dict[str, Step] = {}
    for kind in forms:
        steps[kind] = _step(forms[kind], images, options.compile)
        steps[f"whole {kind}"] = _step(others[kind], images, options.compile)
    with torch.no_grad():
        times = time_steps(steps, options.rounds, "cpu", options.clock, options.turn / 1e3)
    cells = [name, str(batch), f"{share:.2f}", f"{most:.2f}"]
    cells += [ratio(times[kind], times[f"whole {kind}"]) for kind in forms]
    cells.append(f"{statistics.median(times['folded']):.1f}")
    cells.append(f"{_size(forms['folded']) / _size(whole):.3f}")
    return "| " + " | ".join(cells) + " |"


def _compact(network: nn.Module, fold: bool) -> nn.Module:
    compact: Callable[..., nn.Module] = getattr(network, "compact")  # noqa: B009
    return compact(fold_batch_norm=fold)


@torch.no_grad()
def _check(network: nn.Module, forms: dict[str, nn.Module], images: Tensor) -> None:
    """What is timed must be right: the same logits, relative to the largest."""
    expected = network(images)
    for name, form in forms.items():
        difference = (form(images) - expected).abs().max() / expected.abs().max()
        if not difference < 1e-5:
            raise SystemExit(f"the {name} network differs by {difference:.1e}.")


def _step(network: nn.Module, images: Tensor, compiled: bool) -> Step:
    run: Callable[[Tensor], Tensor] = network
    if compiled:
        # Otherwise each call looks through what was compiled of other networks of its class.
        apart = "isolate_recompiles" in signature(torch.compile).parameters
        options: dict[str, Any] = {"isolate_recompiles": True} if apart else {}
        run = torch.compile(network, dynamic=False, **options)

    def step() -> None:
        run(images)

    return step


def _size(network: nn.Module) -> int:
    """Parameters without scores."""
    scores = ("scores", "logits")
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith(scores))


def _explanation(options: argparse.Namespace) -> list[str]:
    lines = [
        "",
        "live: share of live multiply-adds. at most: the target of the ratio. ms: of the folded "
        "network. parameters: of the folded network over those of the other one.",
    ]
    return [*lines, "", options.note] if options.note else lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="words in the networks' names")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--turn", type=float, default=100.0, help="ms in a round for a network; with 0 one call"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=32, help="height and width of the images")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    parser.add_argument(
        "--cpu-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=time.perf_counter,
        help="count the time of this process only, on a busy machine",
    )
    parser.add_argument("--note", default="", help="a sentence for the end of the page")
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _machine(options: argparse.Namespace) -> str:
    words = " ".join(f'"{word}"' if " " in word else word for word in sys.argv[1:])
    return f"{describe('cpu', options.threads)}, `python -m benchmarks.compact_speed {words}`"


if __name__ == "__main__":
    main()
