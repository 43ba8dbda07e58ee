"""DNW without its update rule: the ablation of Table 2."""

from wiring_lightning.callbacks.dnw import DNW


class NoUpdateRule(DNW):
    """Choose the k largest weights as `DNW` does, but give absent ones no gradient (DNW, Table 2).

    Absent weights still change by their remaining momentum and by weight decay. An edge is replaced
    when its magnitude falls below that of an absent weight.

    Arguments and errors are those of `DNW`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NoUpdateRule(density=0.1)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    masks_gradients = True
