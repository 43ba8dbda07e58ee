"""Numbers and pictures of a wiring while it learns."""

from itertools import chain
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from wiring_lightning import costs
from wiring_lightning._checks import check_counts
from wiring_lightning.callbacks._at_start import refuse_a_second, refuse_untaught_in
from wiring_lightning.callbacks._layer_monitor import LayerMonitor
from wiring_lightning.callbacks.hparams_page import add_to_row, write_row
from wiring_lightning.callbacks.layer_table import layer_table
from wiring_lightning.callbacks.log_to import (
    send_hyperparameters,
    send_picture,
    send_table,
    takes_pictures,
    takes_tables,
)
from wiring_lightning.callbacks.pictures import draw_layers, draw_pictures
from wiring_lightning.callbacks.rates import learning_rates
from wiring_lightning.callbacks.run_facts import run_facts
from wiring_lightning.callbacks.sparse_layers import find_sparse_learners
from wiring_lightning.callbacks.wiring_callback import find_learners
from wiring_lightning.callbacks.wiring_numbers import score_numbers, short_names, wiring_table
from wiring_lightning.nn import Gate, find_adjacencies, find_gates
from wiring_lightning.wiring import Wiring, find_wired

# Key of the whole network's edges; the other keys are the names of gates, which are not empty.
_NETWORK = ""
# Numbers of the network on the HPARAMS page of TensorBoard.
_SIZES = ("wiring/parameters_live", "wiring/multiply_adds_live", "wiring/active_edges")
_ABILITIES = {"pictures": takes_pictures, "tables": takes_tables}


class WiringMonitor(Callback):
    """Log how a wiring develops: numbers, pictures, a table, learning rates and hyper-parameters.

    Works with every LightningModule that contains an `nn.Gate` or a network with a wiring
    (`wiring.Wired`), and with plain networks that a `SparseLayers` makes sparse. Logs after every
    n-th epoch and after the last one, to all loggers. For every gate, under
    `wiring/<name of the gate>/`:

    - `entropy`: mean over the targets of the entropy of their normalised scores, divided by the
      logarithm of the number of candidates: 1 if all scores are equal, 0 if only one is positive;
    - `share_at_0`, `share_at_1`: share of the scores that are exactly 0 and 1;
    - `edges_changed`: number of the K best edges that were not among them at the last logging (or
      at the start of the fit);
    - `live_branches`: live nodes of the module that has the last part of the gate's name. Without
      such a module, number of candidates with an active edge.

    For the network, under `wiring/`:

    - `edges_changed` and `active_edges`: new edges and all edges of evaluation mode;
    - `live_nodes`, `live_edges`, `parameters_live`, `multiply_adds_live`: number and cost (see
      `costs`) of what is on an active path from the input to the output.

    For a plain network with sparse layers, under `wiring/` and, for each of these layers, under
    `wiring/<name of the layer>/`:

    - `density` and `edges_changed`: share of the weights that are there, and how many of them were
      not at the last logging (or at the start of the fit);
    - `dead_rows`, `dead_columns`: outputs that read nothing, and inputs that nobody reads;
    - for the network only, `active_edges`, `parameters_live` and, if they are known (see
      `SparseLayers.layer_costs`), `multiply_adds_live`: without the absent weights.

    In the steps that the trainer logs, `weights/lr` and `wiring/lr` are the learning rates of the
    weights and of the scores.

    Loggers of TensorBoard, W&B and MLflow, and others with a `log_image` as W&B's has, get the
    pictures of `callbacks.pictures`, such as `wiring/graph` and `wiring/scores`; those with a
    `log_table`, at the end of the fit, the table `wiring/modules`. Of a plain network they are
    `wiring/densities` and `wiring/layers`. A network with a wiring and sparse layers has
    `wiring/densities`, too, unless it holds a graph of channels. Every logger gets the settings of
    the run as hyper-parameters. A line says which logger takes no pictures or tables.

    TensorBoard keeps ten pictures per tag unless it is started with
    `--samples_per_plugin images=1000`. Its HPARAMS page has a row for each run, with what the runs
    differ in first, and with the last metrics of validation and of a test after the fit.

    Args:
        every_n_epochs: how often to log.
        pictures: whether to draw, which takes one second for a small network and a few seconds for
            a large one, each time. A logger that takes none costs nothing.

    Raises:
        MisconfigurationException: if `every_n_epochs` is below 1, or the LightningModule has
            neither a gate nor a network with a wiring, and no callback makes its layers sparse, or
            an optimizer holds the scores of gates that no callback learns.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[WiringMonitor(every_n_epochs=5)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, every_n_epochs: int = 1, pictures: bool = True) -> None:
        check_counts(
            error=MisconfigurationException, owner="WiringMonitor", every_n_epochs=every_n_epochs
        )
        self.every_n_epochs = every_n_epochs
        self.pictures = pictures
        self._edges: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}
        self._step_metrics: set[str] | None = None
        self._epoch: int | None = None  # the last epoch, if it is not logged yet
        self._facts: dict[str, bool | int | float | str] = {}
        self._layers: LayerMonitor | None = None  # of a plain network
        self._seen: dict[str, Tensor] = {}  # what a resumed run has seen of them
        self._row: dict[str, float] = {}  # metrics on the HPARAMS page of TensorBoard

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_a_second(self, trainer)
            self._edges, self._numbers, self._epoch = {}, {}, None  # of an earlier fit
            self._facts, self._row = {}, {}
            self._layers, self._seen = None, {}

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_untaught_in(trainer.optimizers, pl_module, find_learners(trainer))
        network, gates = find_wired(pl_module), find_gates(pl_module)
        if network is None and not gates:
            if not find_sparse_learners(trainer):
                raise MisconfigurationException(
                    f"WiringMonitor found nothing to watch in {type(pl_module).__name__}: it needs "
                    "a `wiring_lightning.nn.Gate`, a submodule with the methods `wiring` and "
                    "`compact`, or a callback that makes layers sparse, such as DNW; use one of "
                    "the backbones, add such a callback, or remove this one."
                )
            self._layers = LayerMonitor()
            self._layers.memory.load_state_dict(self._seen)
        now = _edges(gates, None if network is None else network.wiring())
        self._edges = {
            name: self._edges[name] if _fits(self._edges.get(name), edges) else edges
            for name, edges in now.items()
        }
        self._step_metrics = None
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Without this, Lightning would write a row with -1 as its only metric.
                logger._default_hp_metric = False
            missing = [what for what, takes in _ABILITIES.items() if not takes(logger)]
            if self.pictures and missing and not isinstance(logger, DummyLogger):
                rank_zero_info(
                    f"WiringMonitor: {type(logger).__name__} takes numbers and hyper-parameters, "
                    f"but no {' and no '.join(missing)}."
                )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._layers is not None:
            self._layers.start(trainer, pl_module)
        # Not before: Lightning has sent the hyper-parameters of module and data by now.
        if trainer.loggers and trainer.is_global_zero:
            self._facts = run_facts(trainer, pl_module, find_wired(pl_module))
            for logger in trainer.loggers:
                send_hyperparameters(logger, self._facts)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.loggers:
            for name, rate in learning_rates(trainer).items():
                # As in `PhaseSchedule`: a tensor of the CPU is not copied to the device and back.
                value = torch.as_tensor(rate, dtype=torch.float32, device="cpu")
                pl_module.log(name, value, on_step=True, on_epoch=False, batch_size=1)

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
        metrics = self._last_metrics(trainer)
        if not trainer.is_global_zero or not metrics:
            return
        if self._layers is None:
            name = "wiring/modules"
            columns, rows = wiring_table(find_gates(pl_module), find_wired(pl_module))
        else:
            name = "wiring/layers"
            columns, rows = layer_table(self._layers.rows(trainer, pl_module, saved=True))
        for logger in trainer.loggers:
            send_table(logger, name, columns, rows, _step(trainer))
            if isinstance(logger, TensorBoardLogger):
                write_row(logger, self._facts, metrics, _step(trainer))
            logger.save()
        self._row = metrics

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._row or not trainer.is_global_zero:
            return  # this run has only tested
        measured = self._last_metrics(trainer).items()
        new = {name: value for name, value in measured if name not in self._row}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_to_row(logger, new, trainer.global_step)

    @override
    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"edges": dict(self._edges)}
        seen = self._seen if self._layers is None else self._layers.memory.state_dict()
        if seen:
            state["layers"] = seen
        if self._epoch is not None:
            # A run that resumes after its last batch has no batch to say so.
            state["epoch"] = self._epoch
        return state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._edges = dict(state_dict["edges"])
        self._seen = state_dict.get("layers", {})
        self._epoch = state_dict.get("epoch")

    def _log(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        self._epoch = None
        if not trainer.loggers or not trainer.is_global_zero:
            return
        network = find_wired(pl_module)
        wiring = None if network is None else network.wiring()
        numbers = self._wiring_numbers(find_gates(pl_module), wiring)
        rows = []
        if self._layers is not None:
            rows = self._layers.rows(trainer, pl_module, saved=False)
            numbers |= self._layers.numbers(trainer, pl_module, rows)
        self._numbers = {f"wiring/{name}": float(value) for name, value in numbers.items()}
        step = _step(trainer)
        for logger in trainer.loggers:
            logger.log_metrics({**self._numbers, "epoch": epoch}, step=step)
        showing = [logger for logger in trainer.loggers if takes_pictures(logger)]
        if self.pictures and showing:
            learners = find_sparse_learners(trainer)
            if learners and not find_adjacencies(pl_module):  # a graph of channels is drawn as one
                rows = rows or learners[-1].layer_costs(trainer, pl_module, saved=False)
            pictures = draw_layers(rows)
            if network is not None and wiring is not None:
                pictures = chain(draw_pictures(network, wiring), pictures)
            for name, figure in pictures:
                for logger in showing:
                    send_picture(logger, f"wiring/{name}", figure, step)
        for logger in trainer.loggers:
            logger.save()

    def _wiring_numbers(self, gates: dict[str, Gate], wiring: Wiring | None) -> dict[str, float]:
        """The numbers of the network and of its gates; looks at their edges once more."""
        edges = _edges(gates, wiring)
        changed = {name: _count_new(edges[name], self._edges[name]) for name in edges}
        self._edges = edges
        numbers = _network_numbers(edges, changed, wiring)
        live = {} if wiring is None else wiring.live_per_group()
        for name, short in short_names(list(gates)).items():
            used, *_ = live.get(name.rpartition(".")[2], [int(edges[name].any(0).sum())])
            own = score_numbers(gates[name])
            own |= {"edges_changed": changed[name], "live_branches": used}
            numbers |= {f"{short}/{key}": value for key, value in own.items()}
        return numbers

    def _last_metrics(self, trainer: Trainer) -> dict[str, float]:
        """The last metrics of whole epochs, except those of training, and of the network."""
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name not in (self._step_metrics or ())
            and not name.startswith("train")
            and value.numel() == 1
        }
        # TensorBoard shows five at first: no details such as test/acc_random beside test/acc.
        short = {
            name: value
            for name, value in metrics.items()
            if name.count("/") < 2 and name.rpartition("_")[0] not in metrics
        }
        sizes = {name: value for name, value in self._numbers.items() if name in _SIZES}
        return short | sizes


def _step(trainer: Trainer) -> int:
    """The step that Lightning logs an epoch's metrics at: that of its last batch."""
    return max(trainer.global_step - 1, 0)


def _edges(gates: dict[str, Gate], wiring: Wiring | None) -> dict[str, Tensor]:
    """The edges of evaluation mode: a mask for every gate, and one number per edge for the network.

    The number depends on the ends of an edge only: a graph of channels lists active edges only.
    """
    edges = {name: gate.best.cpu() for name, gate in gates.items()}
    if wiring is not None:
        ends = wiring.source * len(wiring.nodes) + wiring.target
        edges[_NETWORK] = ends[wiring.active]
    return edges


def _fits(old: Tensor | None, new: Tensor) -> bool:
    """Whether edges that a resumed run remembers can be those of the same gate or network."""
    if old is None or old.dtype != new.dtype:
        return False
    return new.dtype != torch.bool or old.shape == new.shape


def _count_new(edges: Tensor, before: Tensor) -> int:
    """The number of edges that are not in `before`."""
    new = edges & ~before if edges.dtype == torch.bool else ~torch.isin(edges, before)
    return int(new.sum())


def _network_numbers(
    edges: dict[str, Tensor], changed: dict[str, int], wiring: Wiring | None
) -> dict[str, float]:
    """The numbers of the whole network; without a wiring, those of all of its gates together."""
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
