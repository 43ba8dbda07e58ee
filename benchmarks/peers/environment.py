"""A throw-away environment that sees the packages of the running one, plus the tools from pip."""

import json
import os
import site
import subprocess
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# What pip calls each tool; the others belong to torch and Lightning.
ON_PIP = {"rigl-torch": "rigl-torch", "sparsimony": "sparsimony", "torchao": "torchao"}
OF_OTHERS = {"torch.ao.pruning": "torch", "ModelPruning": "lightning"}


class Environment:
    """Installs tools without what they depend on, and asks questions there.

    A tool must run with the torch that is here: another one would be another comparison, and
    several gigabytes.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, system_site_packages=True, with_pip=True, symlinks=os.name != "nt")
        self._python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        (own,) = folder.glob("Lib/site-packages" if os.name == "nt" else "lib/*/site-packages")
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (own / "of_the_running_python.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def install(self, package: str) -> str:
        """Empty if that worked; otherwise the last line that pip printed."""
        command = ["-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check"]
        done = self._run([*command, package], {}, None)
        return "" if done.returncode == 0 else last_of(done.stderr or done.stdout)

    def version(self, package: str) -> str:
        """Of a package."""
        code = f"from importlib.metadata import version; print(version({package!r}))"
        return self._run(["-c", code], {}, None).stdout.strip()

    def ask(self, tool: str, check: str, backend: str, limit: float) -> dict[str, Any]:
        """The answer of a check, which may be that it failed."""
        command = ["-m", "benchmarks.peers.checks", tool, check]
        environment = {"PEERS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
        try:
            done = self._run(command, environment, limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit:.0f} s"}
        if done.returncode != 0:
            return {"failed": last_of(done.stderr) or f"exit code {done.returncode}"}
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _run(
        self, arguments: list[str], environment: dict[str, str], limit: float | None
    ) -> "subprocess.CompletedProcess[str]":
        command = [str(self._python), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, timeout=limit,
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def last_of(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
