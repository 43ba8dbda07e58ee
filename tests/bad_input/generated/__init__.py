"""Bad input by the hundred, from a seed.

`case.py` says what a case is, runs it in this process and judges how it ended. A kind of bad input
is a function that makes a case by chance (`configs.py`, `command_lines.py`, `runs.py`), and a line
in a test file that runs many of them (`test_configs.py`, `test_command_lines.py`). Each of these
files takes a process of its own, so another kind, such as damaged checkpoints, is two more files.
"""
