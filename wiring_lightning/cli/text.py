"""Text that goes on one line."""


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
