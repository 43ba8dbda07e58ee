"""Numbers and pictures of a wiring while it learns."""

from os.path import commonprefix
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning import costs
from wiring_lightning.callbacks.run_facts import run_facts
from wiring_lightning.functional import normalize_scores
from wiring_lightning.nn import Gate, find_gates
from wiring_lightning.wiring import Wired, Wiring

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

    A `TensorBoardLogger` also gets the pictures `wiring/graph`, `wiring/active_branches` and
    `wiring/scores` (see `plots`), and when the fit ends one row in the HPARAMS tab with what
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
        self._logged = True

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network, gates = _find_wired(pl_module), find_gates(pl_module)
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
        self._logged = False
        if self._step_metrics is None:
            self._step_metrics = set(trainer.callback_metrics)  # no epoch has ended yet

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._log(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._logged:
            self._log(trainer, pl_module)

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
                facts = run_facts(trainer, pl_module, _find_wired(pl_module))
                logger.log_hyperparams(facts, metrics, step=_step(trainer))
                logger.save()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"edges": dict(self._edges)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._edges = dict(state_dict["edges"])

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged = True
        gates, network = find_gates(pl_module), _find_wired(pl_module)
        wiring = None if network is None else network.wiring()
        edges = _edges(gates, wiring)
        changed = {name: int((edges[name] & ~self._edges[name]).sum()) for name in edges}
        self._edges = edges
        if not trainer.is_global_zero:
            return
        numbers = _network_numbers(edges, changed, wiring)
        live = {} if wiring is None else _live_by_module(wiring)
        short = _short_names(list(gates))
        for name, gate in gates.items():
            used = live.get(name.rpartition(".")[2], int(edges[name].any(0).sum()))
            own = {**_score_numbers(gate), "edges_changed": changed[name], "live_branches": used}
            numbers |= {f"{short[name]}/{key}": float(value) for key, value in own.items()}
        self._numbers = {f"wiring/{name}": value for name, value in numbers.items()}
        step = _step(trainer)
        for logger in trainer.loggers:
            logger.log_metrics({**self._numbers, "epoch": trainer.current_epoch}, step=step)
            if self.pictures and wiring is not None and isinstance(logger, TensorBoardLogger):
                _draw(logger, wiring, step)


def _step(trainer: Trainer) -> int:
    """The step that Lightning logs an epoch's metrics at: that of its last batch."""
    return max(trainer.global_step - 1, 0)
