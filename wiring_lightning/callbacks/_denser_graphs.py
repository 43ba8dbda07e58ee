"""Graphs that have more edges than their own number while a learner has them."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from typing_extensions import override

from wiring_lightning.callbacks._copies import writes_average
from wiring_lightning.nn import Adjacency, with_descriptions


class DenserGraphs(Callback):
    """Lets the graphs of a trainer load more edges than their own number, as this callback has.

    Lightning's averages save and load plain dicts. These have lost the descriptions by which a
    graph tells its own denser weights from those of another network. What is saved gets them back.
    But an average loses them again when it loads, and files of earlier versions have none.
    Lightning loads a network before it asks any callback, so graphs are told in `setup`, also those
    of averages.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if any(map(writes_average, trainer.callbacks)) and is_overridden(
            "configure_model", pl_module
        ):
            # So that the graphs exist. The average calls it, too, and Lightning again.
            pl_module.configure_model()
        _let_have_more(trainer, pl_module, True)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        callbacks = trainer.callbacks
        if any(map(writes_average, callbacks)) and not isinstance(callbacks[-1], _Describe):
            callbacks.append(_Describe())

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        _let_have_more(trainer, pl_module, False)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        super().on_exception(trainer, pl_module, exception)
        _let_have_more(trainer, pl_module, False)


class _Describe(Callback):
    """Describes a network that is saved, after the callback that put an average there.

    It is added at the end while Lightning goes through the callbacks, and leaves the trainer again.
    """

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        trainer.callbacks.remove(self)
        checkpoint["state_dict"] = with_descriptions(checkpoint["state_dict"], pl_module)


def _let_have_more(trainer: Trainer, network: LightningModule, may: bool) -> None:
    """Say it to the graphs of a network, and of the modules that callbacks hold."""
    held = [value for callback in trainer.callbacks for value in vars(callback).values()]
    for module in (network, *held):
        if isinstance(module, nn.Module):
            for graph in module.modules():
                if isinstance(graph, Adjacency):
                    graph.may_have_more = may
