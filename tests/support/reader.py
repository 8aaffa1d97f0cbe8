"""A process that reads files of a tree over and over and compares every byte.

Run as ``python -m tests.support.reader ROOT SUMS SEED``: SUMS is a JSON object from paths to sha256. Writes
one byte to standard output for each file that was right, and ends with status 0 when standard input is
closed, with a traceback at the first difference or error. The page cache is dropped file by file.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import sys
from pathlib import Path


def main(root: Path, sums: Path, seed: int) -> None:
    expected = json.loads(sums.read_text())
    names = sorted(expected)
    rng = random.Random(seed)
    while True:
        for name in rng.sample(names, len(names)):
            if select.select([0], [], [], 0)[0]:
                return
            with (root / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert hashlib.file_digest(file, "sha256").hexdigest() == expected[name], name
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.write(1, b".")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
