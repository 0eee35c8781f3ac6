"""The one check: formatting, lint, types and tests. What continuous integration runs, too."""

from __future__ import annotations

import subprocess
import sys

STEPS = (
    ("format", "ruff", "format", "--check", "."),
    ("lint", "ruff", "check", "."),
    # Two processes: each uses more than a core at times, and TensorFlow's memory in both.
    ("tests", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *sys.argv[1:]),
)


def main() -> int:
    """Run every step; the exit code is 0 only when all of them passed."""
    # Beside the others, in the time for which those wait; what was found is printed last.
    types = subprocess.Popen(
        [sys.executable, "-m", "mypy"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    failed = []
    for name, module, *arguments in STEPS:
        print(f"── {name}", flush=True)  # noqa: T201
        if subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode:  # noqa: S603
            failed.append(name)
    print(f"── types\n{types.communicate()[0]}", end="", flush=True)  # noqa: T201
    if types.returncode:
        failed.append("types")
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
