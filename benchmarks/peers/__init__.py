"""What other tools for sparse weights do under resume, DDP, averages and compile, on one job.

`python -m benchmarks.compare_peers` runs it. A tool is a file's class with one method, `run`, which
trains the job as a `Plan` says, in the way that the tool's own instructions ask for. A check is one
question; `python -m benchmarks.peers.checks TOOL CHECK` answers it in a process of its own.
"""
