"""Makes `.venv` hold what the lock files pin, and says meanwhile what it does and how long that takes.

Owns the virtual environment of a checkout: creates it, fills it without resolving anything, installs the
checkout itself as editable, and has the embedded model converted once. A stamp makes the next call return at
once. It runs on the system's Python with nothing but the standard library; `make install` calls it.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOCKS = (ROOT / "requirements" / "lock.txt", ROOT / "requirements" / "dev.txt")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
TESTED = (3, 11)
ACCEPTED = ((3, 11), (3, 12))


class Failed(Exception):
    """A step did not work; the text says what to do."""


def say(text: str) -> None:
    print(text, flush=True)


def digest() -> str:
    """Of all that the environment depends on: pins, the project's metadata, Python, folder and script."""
    total = hashlib.sha256(f"{sys.version_info[:2]} {VENV}".encode())
    for file in (*LOCKS, ROOT / "pyproject.toml", Path(__file__)):
        total.update(file.read_bytes())
    return total.hexdigest()


def pins() -> list[str]:
    lines = (line.strip() for file in LOCKS for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def check_python() -> None:
    found = sys.version_info[:2]
    if found not in ACCEPTED:
        raise Failed(
            f"this is Python {platform.python_version()} ({sys.executable}); "
            "swarmloom needs Python 3.11 (tested) or 3.12.\n"
            "Install it, or name one: make install PYTHON=/path/to/python3.11"
        )
    if found != TESTED:
        say(f"  Note: Python {platform.python_version()} is not tested; 3.11 is.")


def make_environment() -> None:
    """Creates `.venv`, and makes anew one that was moved here: its scripts name the old place."""
    pip = VENV / "bin" / "pip"
    if PYTHON.exists() and pip.is_file() and str(VENV) in pip.read_text():
        return
    if VENV.is_symlink():  # what it leads to would be emptied
        raise Failed(f"{VENV} is a link to {VENV.resolve()}, which was not made for this checkout; remove the link")
    say(f"  Creating .venv with Python {platform.python_version()}")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode:
        said = (made.stdout + made.stderr).strip()
        raise Failed(f"cannot create {VENV}:\n{said}\nOn Debian and Ubuntu: apt install python3.11-venv")


def pip_install(*arguments: str, expected: int = 0) -> None:
    """Runs pip without resolving. `expected`: packages to report progress over, at each quarter.

    Raises:
        Failed: with the last lines that pip wrote.
    """
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps"]
    command += ["--progress-bar", "off", "--root-user-action", "ignore", "--no-warn-script-location"]
    command += arguments
    last: deque[str] = deque(maxlen=12)
    seen = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            # Said for each package that one of several configured indexes lacks.
            if not line.startswith("WARNING: Location"):
                last.append(line.rstrip())
            if line.startswith(("Collecting ", "Processing ", "Requirement already ")):
                seen += 1
                if expected and seen % (expected // 4) == 0:
                    say(f"    {seen} of {expected} found")
            elif expected and line.startswith("Installing collected"):
                say("    all fetched; unpacking and compiling")
    if process.returncode:
        raise Failed("pip " + " ".join(arguments) + "\n" + "\n".join(last))


def install_torch(pin: str) -> None:
    """The CPU build, which is not on PyPI. A configured index may have it; if not, PyTorch's own does."""
    say(f"  {pin} (200 MB; about half a minute)")
    try:
        pip_install(pin)
    except Failed:
        say(f"    no configured index has it: fetching from {TORCH_INDEX}")
        pip_install(pin, "--index-url", TORCH_INDEX)


def install() -> None:
    wanted = digest()
    if STAMP.is_file() and STAMP.read_text().strip() == wanted:
        return
    begun = time.monotonic()
    all_pins = pins()
    check_python()
    if PYTHON.exists():
        say("Bringing .venv up to date with the lock files")
    else:
        say("Installing swarmloom into .venv (about 3 minutes, 2.9 GB; only once)")
    make_environment()
    install_torch(next(pin for pin in all_pins if pin.startswith("torch==")))
    say(f"  {len(all_pins)} pinned packages (about 2 minutes)")
    pip_install(*(part for lock in LOCKS for part in ("-r", str(lock))), expected=len(all_pins))
    say("  This checkout, as editable")
    pip_install("--no-build-isolation", "--editable", str(ROOT))
    say("  The embedded model, converted into the cache (about half a minute, only once for all checkouts)")
    if subprocess.run([PYTHON, "-m", "swarm.models.embedded"], cwd=ROOT).returncode:
        raise Failed("the embedded model was not converted; the reason stands above")
    STAMP.write_text(wanted + "\n")
    say(f"Installed in {time.monotonic() - begun:.0f} s")


def main() -> int:
    with Path(__file__).open() as guard:  # two makes at once: the second waits, then finds all done
        fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            install()
        except Failed as failed:
            print(f"make install: {failed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
