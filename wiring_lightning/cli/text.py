"""Text that goes on one line."""

from collections.abc import Sequence


def shorten(text: str, most: int) -> str:
    """A text on one line, cut in the middle if it is long.

    Example:
        >>> shorten("one  line", 100)
        'one line'
        >>> shorten("x" * 50, 20)
        'xxxxxxxxxxxx...xxxxx'
    """
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 3]}...{text[-end:]}"


def name_some(names: Sequence[str], most: int) -> str:
    """Names with commas, and how many more there are than fit into so many characters.

    Example:
        >>> name_some(["DNW", "SET", "RigL"], 100)
        'DNW, SET, RigL'
        >>> name_some(["DNW", "SET", "RigL"], 10)
        'DNW, SET and 1 more'
    """
    shown = list(names)
    while len(", ".join(shown)) > most and len(shown) > 1:
        shown.pop()
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
