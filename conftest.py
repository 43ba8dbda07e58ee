"""Modules that pytest cannot import for their doctests, because an extra is not installed."""

from importlib.util import find_spec

_NEED_RAY = ["wiring_lightning/cli/sweep_run.py", "wiring_lightning/cli/sweep_trial.py"]
collect_ignore = [] if find_spec("ray") else _NEED_RAY
