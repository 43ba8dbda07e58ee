"""What is said of a freeze, a step or a density that a fit does not reach, or has behind it."""

from collections.abc import Iterable, Mapping

from lightning.pytorch.utilities import rank_zero_warn

from wiring_lightning._checks import counted


def warn_of_unreached(
    learner: str, reasons: Iterable[str], epochs: int, over: bool, unseen: bool = False
) -> None:
    """Warn of what a fit does not reach, or did not if it is over.

    Args:
        learner: the name of the learner whose fit it is.
        reasons: what is not reached, in words.
        epochs: number of epochs of the fit.
        over: whether the fit is over.
        unseen: whether the learner has seen none of these epochs.
    """
    end = "training ended" if over else "the trainer stops"
    before = ", before this callback began" if unseen and epochs else ""
    for reason in reasons:
        rank_zero_warn(f"{learner}: {reason}, but {end} after {counted(epochs, 'epoch')}{before}.")


def begins_late(steps: int, epoch: int, behind: str | None) -> str | None:
    """What to say of a learner without a state in a training that has begun; `None` if nothing.

    Args:
        steps: how many steps the trainer has taken whose state could be known.
        epoch: the epoch with which the learner begins.
        behind: what was to come in an earlier epoch, in words; `None` if nothing.
    """
    said = []
    if steps:
        taken = counted(steps, "step")
        said.append(
            f"it has no state of the {taken} that this trainer has taken, so it begins anew"
        )
    if behind is not None:
        said.append(
            f"{behind}, but this callback begins in epoch {epoch}, so that is due at once: epochs "
            "are those of the trainer, so use a new Trainer for another network, or a later epoch"
        )
    return f"{'; '.join(said)}." if said else None


def without_effect(asked: Mapping[str, int | None], epoch: int, step: int) -> str | None:
    """What to say of a wiring that is frozen when a fit begins; `None` if that was asked for.

    Args:
        asked: the epochs from whose start it is to be frozen, by what freezes it.
        epoch: the epoch with which the fit begins.
        step: how many steps the training has had.
    """
    epochs = [(each, name) for name, each in asked.items() if each is not None]
    if not epochs and step:
        return (
            "the wiring was frozen before this fit and stays so, though nothing freezes it now: to "
            "learn it further, resume from a checkpoint before the freeze."
        )
    first, name = min(epochs, default=(0, ""))
    if first <= epoch:
        return None
    return f"the wiring is frozen already and stays so, so {name} has no effect."
