"""One sentence out of the many lines that jsonargparse says about an argument or a config."""

import re
from difflib import get_close_matches

import wiring_lightning.backbones
import wiring_lightning.callbacks
import wiring_lightning.data
import wiring_lightning.tasks

# What jsonargparse says about the other types that a value could have had.
_ASIDES = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Not a valid subclass of",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
)


def one_line(message: str) -> str:
    """What is wrong and where, out of the tree of attempts that jsonargparse reports.

    Example:
        >>> one_line('''Parser key "model":
        ...   Problem with given class_path 'package.Net':
        ...     Option 'dept' is not accepted''')
        "model: Net has no option 'dept'"
    """
    keys: list[str] = []
    reasons: list[str] = []
    owner = "the class"
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if key := re.match(r'Parser key "(.+?)": *', text):
            keys.append(key[1])
            text = text[key.end() :]
        if given := re.match(r"Problem with given class_path '(.+?)': *", text):
            owner = given[1].rpartition(".")[2]
            text = text[given.end() :]
        if option := re.match(r"Option '(.+)' is not accepted", text):
            text = f"{owner} has no option '{option[1]}'"
        if name := re.search(r"Expected a dot import path string: (.+)", text):
            text = text[: name.start()] + _unknown_class(name[1])
            reasons.clear()  # the name was tried as a file before
        if text and not text.startswith(_ASIDES):
            reasons.append(text)
    if not (keys or message.startswith(_ASIDES)):
        return " ".join(reasons)
    return ": ".join(filter(None, [".".join(keys), *reasons[:1]]))


def _unknown_class(name: str) -> str:
    packages = (
        wiring_lightning.backbones,
        wiring_lightning.callbacks,
        wiring_lightning.data,
        wiring_lightning.tasks,
    )
    known = {known.lower(): known for package in packages for known in package.__all__}
    close = [known[match] for match in get_close_matches(name.lower(), known)]
    hint = "give its import path, package.module.Class"
    if close and close[0] != name:
        hint = f"did you mean {close[0]}?"
    return f"there is no class '{name}'; {hint}"
