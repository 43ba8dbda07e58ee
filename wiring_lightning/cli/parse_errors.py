"""What jsonargparse says about a config, a tree of all that it tried, as one sentence."""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from inspect import isabstract, isclass

from wiring_lightning.cli.text import name_some, shorten

# What a value had to be, in words; what is not here is called by its name.
_NOUNS = {
    "int": "a whole number (int)",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "Sequence": "a list",
    "Iterable": "a list",
    "dict": "a mapping",
    "Mapping": "a mapping",
}
_CLASS = "a class is given as class_path, and init_args as needed; other keys are unknown"
# Lines that say nothing which another line does not say better.
_ASIDES = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value type",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
    "Expected a path but",
    "Expected a config path but",
    "Expected an import path or a subclass spec",
)


def one_line(message: str) -> str:
    """What is wrong and where, out of the tree of attempts that jsonargparse reports.

    Example:
        >>> one_line('''Parser key "model":
        ...   Problem with given class_path 'package.Net':
        ...     Option 'dept' is not accepted''')
        "model: Net has no option 'dept'"
        >>> one_line('''Parser key "trainer.max_epochs":
        ...   Does not validate against any of the Union subtypes
        ...   Errors:
        ...     - Expected a <class 'int'>
        ...     - Expected a <class 'NoneType'>
        ...   Given value: many''')
        "trainer.max_epochs: must be a whole number (int), got 'many'"
    """
    found = _Findings()
    for line in message.splitlines():
        indent = len(line) - len(line.lstrip())
        text = line.strip().removeprefix("- ")
        if not text or text.startswith(_ASIDES):
            continue
        if found.keys and indent <= found.indent:
            break  # what the other types of a union said, after the one that came deepest
        found.read(text, indent)
    return found.sentence(tried=message.startswith(_ASIDES))


@dataclass
class _Findings:
    """What the lines of one tree have said so far."""

    keys: list[str] = field(default_factory=list)
    indent: int = 0  # of the last key
    owner: str = "the class"
    wanted: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    unknown: str | None = None  # the name of a class that was not found
    value: str | None = None

    def read(self, text: str, indent: int) -> None:
        """Take in a line."""
        if key := re.match(r'Parser key "(.+?)": *|--([\w.]+)\.help: *', text):
            self.keys.append(key[1] or key[2])
            self.indent = indent
            self.wanted, self.reasons, self.unknown = [], [], None
            text = text[key.end() :]
        if given := re.match(r"Problem with given class_path '(.+?)': *", text):
            self._name_owner(given[1])
            text = text[given.end() :]
        if function := re.match(r"Type .+? expects a function or a callable class: ", text):
            text = text[function.end() :]
            if 'Parser key "' in text[:12]:
                self.read(text, indent)
                return
            self.wanted.append("a class (class_path, and init_args as needed)")
        for _ in range(2):  # a value of its own, and the whole class that it belongs to
            if value := re.search(r"\.{0,2} ?G(?:ot|iven) value: ((?:(?!Got value).)*)$", text):
                self._read_value(value[1])
                text = text[: value.start()]
        if name := re.search(r"Expected a dot import path string: *(.*)", text):
            self.unknown = name[1]
        elif kind := re.match(
            r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[(.*)\])$", text
        ):
            self._want(kind[1] or "", kind[2])
        elif base := re.match(r"Not a valid subclass of (\w+)", text):
            self.wanted.append(f"a {base[1]} (class_path, and init_args as needed)")
        elif text and not text.startswith(_ASIDES):
            self.reasons.append(self._in_words(text))

    def sentence(self, tried: bool) -> str:
        """The key and the best reason; without a key all reasons, or the first of those tried."""
        if not self.keys:
            return " ".join(self.reasons[:1] if tried else self.reasons)
        plain = any(word in _NOUNS.values() or word[:7] == "one of " for word in self.wanted)
        # A class was meant if nothing but lists and switches could stand in its place.
        lists_only = plain and set(self.wanted) <= {"a list", "true or false"}
        lists_only &= "true or false" not in self.wanted or (self.unknown or "")[:1].isupper()
        if self.reasons:
            reason = self.reasons[0]
        elif self.unknown is not None and (not plain or lists_only):
            reason = unknown_class(self.unknown, self.keys[-1])
        elif self.wanted:
            got = "" if self.value is None else f", got {shorten(self.value, 60)}"
            reason = f"must be {' or '.join(dict.fromkeys(self.wanted))}{got}"
        else:
            reason = "cannot be read"
        return f"{'.'.join(self.keys)}: {reason}"

    def _name_owner(self, path: str) -> None:
        self.owner = path.rpartition(".")[2]

    def _read_value(self, value: str) -> None:
        """Remember the value that was given, or its class."""
        if given := re.match(r"Namespace\(class_path='([\w.]+)'", value):
            self._name_owner(given[1])
        elif not value.startswith("Namespace("):
            number = re.fullmatch(r"[-+.\d]\S*|None|True|False|[\[{].*", value)
            self.value = {"None": "null"}.get(value, value if number else repr(value))

    def _want(self, kind: str, choices: str | None) -> None:
        """Remember what a value could have been: a kind, or one of some choices."""
        if choices is not None:
            self.wanted.append(f"one of {shorten(choices, 120)}")
        elif kind != "NoneType":
            name = kind.rpartition(".")[2]
            self.wanted.append(_NOUNS.get(name, f"a {name}"))

    def _in_words(self, text: str) -> str:
        """A reason of jsonargparse in the words of this package, if it has some for it."""
        if option := re.match(r"Option '(.+)' is not accepted", text):
            if option[1] == "class_path":  # then something is wrong with what is beside it
                return _CLASS
            return f"{self.owner} has no option '{option[1]}'"
        for pattern in (
            r"Import path (\S+) does not correspond to a subclass of (.+)",
            r"Expected '(.+?)' to be (?:a subclass of|a function that returns) (.+)",
            r'"(.+?)" is not a subclass of (.+)',
        ):
            if other := re.match(pattern, text):
                kinds = re.sub(r"<class '|'>|Union\[|\]|\.$", "", other[2]).split(", ")
                names = [kind.rpartition(".")[2] for kind in kinds]
                return f"{other[1]} is no {' or '.join(names)}"
        if text.startswith("Dict must include a class_path"):
            return _CLASS
        return text


def unknown_class(name: str, key: str = "") -> str:
    """What to say about a name that no class has.

    Args:
        name: as it was given.
        key: where, such as `model.backbone`; then the classes for this place are listed.

    Example:
        >>> unknown_class("Nosuch", "model")
        "there is no class 'Nosuch'; there are ClassificationTask, SegmentationTask, \
WiringComparison, or give an import path, package.module.Class"
        >>> unknown_class("resnet", "model.backbone")
        "there is no class 'resnet'; did you mean ResNet?"
    """
    named = shorten(repr(name), 60)
    place = key.rpartition(".")[2]
    known = {known.lower(): known for known in _classes_for(place)}
    close = [known[match] for match in get_close_matches(name.lower(), known)]
    hint = f"give its import path, {_PATH}"
    if close and close[0] != name:
        hint = f"did you mean {close[0]}?"
    elif place in _EXAMPLES:
        hint = f"{hint}, such as {_EXAMPLES[place]}"
    elif place in ("logger", *_BASES):
        hint = f"there are {name_some([*known.values()], 190)}, or give an import path, {_PATH}"
    return f"there is no class {named}; {hint}"


_PATH = "package.module.Class"
_BASES = {
    "backbone": ("backbones", "torch.nn.Module"),
    "model": ("tasks", "lightning.pytorch.LightningModule"),
    "data": ("data", "lightning.pytorch.LightningDataModule"),
    "callbacks": ("callbacks", "lightning.pytorch.Callback"),
}
_EXAMPLES = {
    "optimizer": "torch.optim.SGD",
    "lr_scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR",
}


def _classes_for(place: str) -> list[str]:
    """The classes of this package that can stand at a place of a config; all for other places."""
    if place == "logger":  # importing them all would take seconds
        return ["CSVLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"]
    names: list[str] = []
    for package, base in [_BASES[place]] if place in _BASES else _BASES.values():
        floor = import_module(f"wiring_lightning.{package}")
        module, _, kind = base.rpartition(".")
        wanted = getattr(import_module(module), kind)
        for name in floor.__all__:
            found = getattr(floor, name)
            if isclass(found) and issubclass(found, wanted) and not isabstract(found):
                names.append(name)
    return sorted(names)
