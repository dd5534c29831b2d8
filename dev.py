"""Run a development task: ``python3 dev.py demo``, ``python3 dev.py tests``. Needs Python >= 3.11 and pip, no more.

The first run makes a virtual environment in ``.bootstrap`` and installs nox there; nothing else on the machine changes.
``python3 dev.py`` lists the tasks. What stands behind ``--`` goes to the task: ``python3 dev.py demo -- FILE``.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOME = ROOT / ".bootstrap"
PYTHON = HOME / ("Scripts" if os.name == "nt" else "bin") / "python"


def bootstrap() -> None:
    """Make the environment that nox runs in."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the check that says so
        sys.exit(f"pattern-core needs Python 3.11 or later; this is {sys.version.split()[0]}. Try python3.11 dev.py …")
    print("Preparing .bootstrap with nox …", flush=True)  # noqa: T201 - the first run takes a while
    try:
        venv.create(HOME, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, SystemExit):  # Debian keeps ensurepip in a package of its own
        tools = HOME / "tools"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, "virtualenv"], check=True)
        environment = {**os.environ, "PYTHONPATH": str(tools)}
        subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", HOME], check=True, env=environment)
    install: list[str | Path] = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", ROOT / "constraints.txt", "nox"], check=True)
    (HOME / "ready").touch()


def main() -> int:
    """Run nox on the named tasks."""
    if not (HOME / "ready").exists():
        bootstrap()
    arguments, behind = sys.argv[1:], []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, behind = arguments[:split], arguments[split:]
    wanted = ["--tags", *arguments] if arguments else ["--list"]
    return subprocess.run(
        [PYTHON, "-m", "nox", "--noxfile", ROOT / "noxfile.py", *wanted, *behind], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
