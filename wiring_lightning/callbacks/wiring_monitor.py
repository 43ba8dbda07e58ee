"""Numbers and pictures of a wiring while it learns."""

from itertools import takewhile
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from typing_extensions import override

from wiring_lightning import costs
from wiring_lightning.callbacks.pictures import draw_pictures
from wiring_lightning.callbacks.run_facts import run_facts
from wiring_lightning.functional import normalize_scores
from wiring_lightning.nn import Gate, find_gates
from wiring_lightning.wiring import Wiring, find_wired

# The edges of the whole network among those of the gates, whose names are never empty.
_NETWORK = ""


class WiringMonitor(Callback):
    """Log how a wiring develops, with pictures and a row of hyper-parameters for TensorBoard.

    Works with every LightningModule that contains `nn.Gate`s or a network that can tell its wiring
    (`wiring.Wired`). After every n-th epoch and after the last one, each logger gets, at the step
    of the epoch's other metrics, for every gate under `wiring/<name of the gate>/`

    - `entropy`: mean over the targets of the entropy of their normalised scores, divided by the
      logarithm of the number of candidates: 1 if all scores are equal, 0 if one candidate has all;
    - `share_at_0`, `share_at_1`: share of the scores that are exactly 0 and 1;
    - `edges_changed`: how many of the K best edges were not among them when this was last logged
      (for the first time: when the fit began);
    - `live_branches`: live nodes of the module that the gate feeds, which is the one that is called
      like the last part of the gate's name; without such a module, candidates that some target
      listens to,

    and for the network under `wiring/`

    - `edges_changed` and `active_edges`: edges that evaluation mode uses, new ones and all;
    - `live_nodes`, `live_edges`, `parameters_live`, `multiply_adds_live`: what is on an active path
      from the input to the output, and what it costs (see `costs`).

    A `TensorBoardLogger` also gets the pictures `wiring/graph`, `wiring/active_branches`,
    `wiring/scores` and, of a network that concatenates, `wiring/feature_reuse` (see `plots` and
    `callbacks.pictures`), and when the fit ends one row in the HPARAMS tab with what
    defines the run and its final metrics. TensorBoard keeps ten pictures per tag unless it is
    started with `--samples_per_plugin images=1000`.

    Args:
        every_n_epochs: how often to log.
        pictures: whether to draw. Takes about a second for a small network and a few for a large
            one, each time.

    Raises:
        MisconfigurationException: if `every_n_epochs` is below 1, or the LightningModule has
            neither a gate nor a network that can tell its wiring.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[WiringMonitor(every_n_epochs=5)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, every_n_epochs: int = 1, pictures: bool = True) -> None:
        if every_n_epochs < 1:
            raise MisconfigurationException(
                f"WiringMonitor: every_n_epochs must be at least 1, got {every_n_epochs}."
            )
        self.every_n_epochs = every_n_epochs
        self.pictures = pictures
        self._edges: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}
        self._step_metrics: set[str] | None = None
        self._epoch: int | None = None  # the epoch that trained last, until it is logged

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network, gates = find_wired(pl_module), find_gates(pl_module)
        if network is None and not gates:
            raise MisconfigurationException(
                f"WiringMonitor found nothing to watch in {type(pl_module).__name__}: it needs a "
                "`wiring_lightning.nn.Gate` or a submodule with the methods `wiring` and "
                "`compact`; use one of the backbones, or remove the callback."
            )
        now = _edges(gates, None if network is None else network.wiring())
        self._edges = {
            name: self._edges[name] if _fits(self._edges.get(name), edges) else edges
            for name, edges in now.items()
        }
        self._step_metrics = None
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # TensorBoard shows the first description of a run that it finds. Lightning would
                # write one now, with -1 as its only metric, and hide the one of `on_fit_end`.
                logger._default_hp_metric = False

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._epoch = trainer.current_epoch
        if self._step_metrics is None:
            self._step_metrics = set(trainer.callback_metrics)  # no epoch has ended yet

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._log(trainer, pl_module, trainer.current_epoch)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch is not None:
            self._log(trainer, pl_module, self._epoch)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name not in (self._step_metrics or ()) and value.numel() == 1
        }
        metrics |= {name: value for name, value in self._numbers.items() if name.count("/") == 1}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and metrics:
                facts = run_facts(trainer, pl_module, find_wired(pl_module))
                logger.log_hyperparams(facts, metrics, step=_step(trainer))
                logger.save()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"edges": dict(self._edges)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._edges = dict(state_dict["edges"])

    def _log(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        self._epoch = None
        if not trainer.loggers or not trainer.is_global_zero:
            return
        gates, network = find_gates(pl_module), find_wired(pl_module)
        wiring = None if network is None else network.wiring()
        edges = _edges(gates, wiring)
        changed = {name: _count_new(edges[name], self._edges[name]) for name in edges}
        self._edges = edges
        numbers = _network_numbers(edges, changed, wiring)
        live = {} if wiring is None else wiring.live_per_group()
        for name, short in _short_names(list(gates)).items():
            used, *_ = live.get(name.rpartition(".")[2], [int(edges[name].any(0).sum())])
            own = _score_numbers(gates[name])
            own |= {"edges_changed": changed[name], "live_branches": used}
            numbers |= {f"{short}/{key}": value for key, value in own.items()}
        self._numbers = {f"wiring/{name}": float(value) for name, value in numbers.items()}
        step = _step(trainer)
        for logger in trainer.loggers:
            logger.log_metrics({**self._numbers, "epoch": epoch}, step=step)
            if self.pictures and wiring is not None and isinstance(logger, TensorBoardLogger):
                assert network is not None
                for name, figure in draw_pictures(network, wiring):
                    logger.experiment.add_figure(f"wiring/{name}", figure, step)
            logger.save()


def _step(trainer: Trainer) -> int:
    """The step that Lightning logs an epoch's metrics at: that of its last batch."""
    return max(trainer.global_step - 1, 0)


def _edges(gates: dict[str, Gate], wiring: Wiring | None) -> dict[str, Tensor]:
    """The edges that evaluation mode uses: a mask for every gate, and for the network numbers.

    A graph of channels lists only the edges that it has, so edges are compared by their ends.
    """
    edges = {name: gate.best.cpu() for name, gate in gates.items()}
    if wiring is not None:
        ends = wiring.source * len(wiring.nodes) + wiring.target
        edges[_NETWORK] = ends[wiring.active]
    return edges


def _fits(old: Tensor | None, new: Tensor) -> bool:
    if old is None or old.dtype != new.dtype:
        return False
    return new.dtype != torch.bool or old.shape == new.shape


def _count_new(edges: Tensor, before: Tensor) -> int:
    """How many edges were not there before."""
    new = edges & ~before if edges.dtype == torch.bool else ~torch.isin(edges, before)
    return int(new.sum())


def _network_numbers(
    edges: dict[str, Tensor], changed: dict[str, int], wiring: Wiring | None
) -> dict[str, float]:
    if wiring is None:
        active = sum(int(mask.sum()) for mask in edges.values())
        return {"edges_changed": sum(changed.values()), "active_edges": active}
    return {
        "live_nodes": int(wiring.live_nodes.sum()),
        "live_edges": int(wiring.live_edges.sum()),
        "parameters_live": int(costs.parameters(wiring)),
        "multiply_adds_live": int(costs.multiply_adds(wiring)),
        "active_edges": int(wiring.active.sum()),
        "edges_changed": changed[_NETWORK],
    }


def _score_numbers(gate: Gate) -> dict[str, float]:
    """What `WiringMonitor` says about the scores of a gate."""
    scores = gate.scores.detach().cpu().float()
    choice = (scores >= 0).sum(-1) > gate.fan_in
    if choice.any():  # targets that take all of their candidates have learned nothing
        scores = scores[choice]
    candidate = scores >= 0
    count = candidate.sum(-1)
    share = normalize_scores(scores).clamp_min(0)
    entropy = -torch.xlogy(share, share).sum(-1) / count.clamp_min(2).log()
    return {
        "entropy": float(entropy.mean()),
        "share_at_0": float((scores[candidate] == 0).float().mean()),
        "share_at_1": float((scores[candidate] == 1).float().mean()),
    }


def _short_names(names: list[str]) -> dict[str, str]:
    """Names without the part that all of them start with.

    Example:
        >>> _short_names(["backbone.connections.module2", "backbone.connections.module3"])
        {'backbone.connections.module2': 'module2', 'backbone.connections.module3': 'module3'}
    """
    paths = [name.split(".") for name in names]
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))
    return {
        name: ".".join(path[min(shared, len(path) - 1) :])
        for name, path in zip(names, paths, strict=True)
    }
