"""Equations: a fenced block named `math` becomes MathML, which browsers draw without a script."""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Hand such blocks to `equation`."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences.setdefault("custom_fences", []).append(
        {"name": "math", "class": "math", "format": equation}
    )
    return config


def equation(source: str, *_: Any, **__: Any) -> str:
    """LaTeX as MathML, on lines of its own.

    Example:
        >>> "<msub>" in equation("s_j")
        True
    """
    return f'<div class="equation">{convert(source, display="block")}</div>'
