"""A tokenizer from elsewhere is tried out before it is used, in a process of its own with bounded memory and time.

Its file is a program of a kind: rules that replace a letter by two, sixty times over, or expressions that are searched
without end. Run as a script, this reads a `tokenizer.json` and tokenizes some texts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SECONDS = 30  # of work
WAITS = 300  # seconds until the process must have ended, on a machine that is busy
MEGABYTES = 1024  # beside eight times the file
MOST_IDS = 4  # for each byte of a text
TEXTS = (
    "a" * 3_000,
    "1" * 3_000,
    " " * 3_000,
    "\n" * 3_000,
    "aB1 .-é “字” " * 300,
    "".join(map(chr, range(32, 127))) * 30,
)


def try_tokenizer(path: Path) -> None:
    """Raises WeightsError: the tokenizer is damaged, takes too much time or memory, or makes far too many tokens."""
    from codi2.errors import WeightsError

    try:
        run = subprocess.run(
            [sys.executable, "-I", __file__, str(path)], capture_output=True, text=True, errors="replace", timeout=WAITS
        )
        reason = run.stdout.strip() if run.returncode == 0 else "it takes too much time or memory"
    except subprocess.TimeoutExpired:
        reason = "it takes too much time"
    if reason != "fit":
        raise WeightsError(f"the tokenizer {path} cannot be used: {reason[:300]}; fetch it again or name another model")


def main(path: Path) -> str:
    """`fit`, or why it is not."""
    import resource

    from tokenizers import Tokenizer

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEGABYTES * 2**20 + 8 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        tokenizer = Tokenizer.from_file(str(path))
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            if len(ids) > MOST_IDS * len(text.encode()) + 64:
                return f"it makes {len(ids):,} tokens of {len(text):,} characters"
            tokenizer.decode(ids)
    except BaseException as error:  # a panic of Rust is none of Python's exceptions
        return (str(error).splitlines() or [type(error).__name__])[0]
    return "fit"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
