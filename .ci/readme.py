"""Runs every shell command of Markdown files, in order, in one shell, from the current folder.

Usage: python3 .ci/readme.py FILE.md [FILE.md ...] [TEXT ...]

Blocks fenced with ```sh are commands. A block whose text contains one of the TEXTs is left out and
named: something else has run it already. Background jobs are ended with the shell.
"""

import re
import subprocess
import sys
from pathlib import Path


def blocks(markdown: str) -> list[str]:
    """The bodies of the fenced shell blocks."""
    return re.findall(r"^```sh\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)


def main() -> int:
    """Runs the blocks; the exit code is the shell's."""
    paths = [word for word in sys.argv[1:] if word.endswith(".md")]
    left_out = [word for word in sys.argv[1:] if word not in paths]
    commands = []
    for path in paths:
        found = blocks(Path(path).read_text(encoding="utf-8"))
        if not found:
            print(f"{path}: no ```sh block found", file=sys.stderr)
            return 1
        commands += found
    script = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for command in commands:
        if any(text in command for text in left_out):
            print(f"left out: {command.strip()}")
        else:
            script.append(f"set -x\n{command}\n{{ set +x; }} 2>/dev/null")
    return subprocess.run(["bash", "-c", "\n".join(script)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
