"""`wiring inspect`: the costs of a network's wiring, as an entry point of the trainer."""

import json
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from wiring_lightning.checkpoints import load_weights
from wiring_lightning.cli.report import (
    format_table,
    summarize,
    summarize_weights,
    summary_rows,
    weight_rows,
)
from wiring_lightning.plots import draw_architecture, save_figure
from wiring_lightning.wiring import find_wired


class WiringTrainer(Trainer):
    """Lightning's Trainer with `inspect`."""

    def inspect(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,  # noqa: ARG002
        ckpt_path: str | None = None,
        format: Literal["table", "json"] = "table",
        figure: str | None = None,
        found: str | None = None,  # noqa: ARG002
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> None:
        """Show what a network's wiring costs, all candidates against what is live.

        Of a network that does not tell a wiring, show which share of its weights is not zero.

        Args:
            model: the model of the config.
            datamodule: not used; a config for training may name one.
            ckpt_path: checkpoint whose weights and wiring are shown; a fresh network if not given.
            format: a table for people or JSON for programs.
            figure: file to draw the wiring into, such as wiring.png or wiring.svg.
            found: folder to write the architecture into that a search has found in a fabric: a
                config and a checkpoint of its own.
            weights_only: not used; the config that a run saves names it.
        """
        if ckpt_path is not None:
            load_weights(model, ckpt_path)
        network = find_wired(model)
        if network is None and figure is not None:
            raise MisconfigurationException(
                f"{type(model).__name__} holds no network with a `wiring()`, so there is no "
                "picture of one; leave --figure out, or use one of wiring_lightning.backbones or "
                "your own with that method."
            )
        if format == "json":
            summary = summarize_weights(model) if network is None else summarize(network.wiring())
            print(json.dumps(summary, indent=2))
        else:
            rows = weight_rows(model) if network is None else summary_rows(network.wiring())
            print(format_table(rows))
        if network is not None and figure is not None:
            save_figure(draw_architecture(network.wiring()), Path(figure))
