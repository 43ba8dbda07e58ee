"""How many cases the tests draw by chance."""

import os


def draws(count: int) -> int:
    """Usually `count`; `WIRING_DRAWS=10` draws ten times as many, the usual ones among them."""
    return count * int(os.environ.get("WIRING_DRAWS", "1"))
