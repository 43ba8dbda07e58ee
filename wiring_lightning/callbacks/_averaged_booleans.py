"""Boolean tensors, such as a wiring, in an average of torch."""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn


def copy_booleans(average: AveragedModel) -> None:
    """Make an average copy boolean tensors, such as a wiring, which torch would try to average."""
    average_lists = average.multi_avg_fn
    if average_lists is None:
        average_one = average.avg_fn or get_swa_avg_fn()
        average.avg_fn = lambda a, b, n: b if a.dtype == torch.bool else average_one(a, b, n)
        return

    def update(averages: Any, values: Any, count: Any) -> None:  # the lists are of one dtype
        if averages[0].dtype == torch.bool:
            torch._foreach_copy_(averages, values)
        else:
            average_lists(averages, values, count)

    average.multi_avg_fn = update
