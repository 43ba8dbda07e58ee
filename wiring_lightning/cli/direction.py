"""Whether less of a number is better, for every command that compares runs."""

import re

# Parts of a name, and words of it that are too short to be looked for inside of others.
_PARTS = ("loss", "error", "perplexity")
_WORDS = {"err", "mae", "mse", "rmse", "mape", "nll", "ece", "brier", "wer", "cer", "fid"}


def less_is_better(tag: str) -> bool:
    """Whether a number is a loss or an error, by its name.

    Example:
        >>> [less_is_better(f"val/{name}") for name in ("loss", "top1_err", "mae", "perplexity")]
        [True, True, True, True]
        >>> [less_is_better(f"val/{name}") for name in ("acc", "iou/terrain")]
        [False, False]
    """
    name = tag.lower()
    return any(part in name for part in _PARTS) or not _WORDS.isdisjoint(re.split(r"[^a-z]+", name))
