"""wiring_lightning: networks that learn their own wiring while their weights train.

Which edges of a network are there can be learned by gradients (MaskConnect, GateConnect), found as
the largest weights (Discovering Neural Wirings), fixed by a rule (SparseNet) or searched under a
budget (Budgeted Super Networks). Start with `callbacks.MaskConnect` and `backbones.ResNeXt`, or on
the command line with `wiring --help`.
"""

__version__ = "0.1.0"
