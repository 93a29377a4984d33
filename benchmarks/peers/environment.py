"""The peers' own virtual environment, made once and used by the one command."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-peers"


def enter(module: str) -> None:
    """Runs a module again within the environment, unless it already does; then does not return.

    Makes the environment where it is missing, or where `pyproject.toml` has changed since.
    """
    if Path(sys.prefix).resolve() == FOLDER.resolve():
        return
    python, stamp = str(FOLDER / "bin" / "python"), FOLDER / "pyproject.sha256"
    state = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != state:
        print(f"installing the peers into {FOLDER.name} (once; PyTorch is large)", flush=True)
        if not FOLDER.exists():
            venv.create(FOLDER, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-e", ".[peers]"]
        subprocess.run(pip, cwd=ROOT, check=True)
        stamp.write_text(state)
    os.chdir(ROOT)
    os.execv(python, [python, "-m", module, *sys.argv[1:]])
