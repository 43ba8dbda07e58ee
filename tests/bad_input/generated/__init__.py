"""Bad input by the hundred, from a seed.

`case.py` says what a case is, runs it in this process and judges how it ended. A kind of bad input
is a file beside it that makes cases (`configs.py`, `command_lines.py`), and a test file that runs
them in batches (`test_configs.py`, `test_command_lines.py`). Another kind, such as damaged
checkpoints, is two more files.
"""
