"""Reading YAML: what a config may not hold, whoever reads it afterwards."""

from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

# More than any config has; a file of a few lines whose aliases multiply has billions.
_MOST_VALUES = 100_000
_DEEPEST = 100

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str) -> None:
    """Refuse what YAML allows and nobody means: a key given twice, an alias inside itself.

    Raises:
        yaml.YAMLError: if the text is no YAML, or holds one of these, or far too much.

    Example:
        >>> check_yaml('''trainer:
        ...   max_epochs: 3
        ...   max_epochs: 30
        ... ''')
        Traceback (most recent call last):
        yaml.error.YAMLError: line 3: the key 'max_epochs' is given twice, first in line 2: ...
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        count = 0 if root is None else _count(root, {}, 0)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply: no config is") from error
    if count > _MOST_VALUES:
        raise yaml.YAMLError(f"it holds more than {_MOST_VALUES:,} values: no config does")


def read_yaml(text: str) -> Any:
    """The plain values of a text; raises as `check_yaml`."""
    check_yaml(text)
    return yaml.load(text, Loader=_Loader)


def where_and_why(error: yaml.YAMLError) -> str:
    """What is wrong with a text, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else str(error)


def _count(node: yaml.Node, counts: dict[int, int], depth: int) -> int:
    """How many values a node stands for, aliases written out; 0 marks one that is not done."""
    if id(node) in counts:
        if counts[id(node)] == 0:
            raise yaml.YAMLError(f"{_line(node)}: an alias stands for a value that it is part of")
        return counts[id(node)]
    if depth > _DEEPEST:
        raise yaml.YAMLError(f"{_line(node)}: nested more than {_DEEPEST} deep: no config is")
    counts[id(node)], count = 0, 1
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in lines:
                first = lines[name].start_mark.line + 1
                raise yaml.YAMLError(
                    f"{_line(key)}: the key {name!r} is given twice, first in line {first}: "
                    "remove one of the two"
                )
            if name is not None:
                lines[name] = key
            count += _count(key, counts, depth + 1) + _count(value, counts, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_count(value, counts, depth + 1) for value in node.value)
    counts[id(node)] = count
    return count


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
