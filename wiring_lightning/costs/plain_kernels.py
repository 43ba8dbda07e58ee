"""How a network computes while its multiply-adds are counted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_kernels() -> Iterator[None]:
    """No kernels that compute a whole attention or recurrent layer at once.

    A counter of operators sees no product inside of such a kernel.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # oneDNN warns if it is asked for TF32 where it has none, even if that is its default.
        one_dnn = torch.backends.mkldnn.flags(
            enabled=False, allow_tf32=torch.backends.mkldnn.allow_tf32
        )
        with torch.backends.cudnn.flags(enabled=False), one_dnn, sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
