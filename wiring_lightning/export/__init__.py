"""Writing trained networks as files that run without callbacks, and reading them."""

from wiring_lightning.export.described_network import DescribedNetwork
from wiring_lightning.export.description import describe
from wiring_lightning.export.errors import ExportError
from wiring_lightning.export.reading import load_exported
from wiring_lightning.export.tracing import plain_network, trace
from wiring_lightning.export.writing import SUFFIXES, Exported, export_network

__all__ = [
    "SUFFIXES",
    "DescribedNetwork",
    "ExportError",
    "Exported",
    "describe",
    "export_network",
    "load_exported",
    "plain_network",
    "trace",
]
