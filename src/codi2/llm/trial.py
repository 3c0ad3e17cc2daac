"""A tokenizer from elsewhere is tested before use, in a separate process with limited memory and time.

A tokenizer file can hold rules that double each letter sixty times, or regular expressions that never finish. Run as
a script, this module reads a `tokenizer.json` and tokenizes test texts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CPU_SECONDS = 30  # processor time of the process
WALL_SECONDS = 300  # until the process must have ended; long, for a busy machine
MEGABYTES = 1024  # of memory, in addition to eight times the file's size
MAX_IDS_PER_BYTE = 4  # of a text
TEXTS = (
    "a" * 3_000,
    "1" * 3_000,
    " " * 3_000,
    "\n" * 3_000,
    "aB1 .-é “字” " * 300,
    "".join(map(chr, range(32, 127))) * 30,
)


def try_tokenizer(path: Path) -> None:
    """Raises WeightsError: the tokenizer is damaged, needs too much time or memory, or gives far too many tokens."""
    from codi2.errors import WeightsError

    try:
        run = subprocess.run(
            [sys.executable, "-I", __file__, str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WALL_SECONDS,
        )
        reason = run.stdout.strip() if run.returncode == 0 else "it takes too much time or memory"
    except subprocess.TimeoutExpired:
        reason = "it takes too much time"
    if reason != "fit":
        raise WeightsError(f"the tokenizer {path} cannot be used: {reason[:300]}; fetch it again or name another model")


def main(path: Path) -> str:
    """`fit`, or why the tokenizer is refused."""
    import resource

    from tokenizers import Tokenizer

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEGABYTES * 2**20 + 8 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        tokenizer = Tokenizer.from_file(str(path))
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            if len(ids) > MAX_IDS_PER_BYTE * len(text.encode()) + 64:
                return f"it makes {len(ids):,} tokens of {len(text):,} characters"
            tokenizer.decode(ids)
    except BaseException as error:  # a panic of Rust is not an `Exception`
        return (str(error).splitlines() or [type(error).__name__])[0]
    return "fit"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
