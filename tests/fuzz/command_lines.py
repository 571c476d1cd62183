"""Wrong command lines by the thousand, by hand:

    python tests/fuzz/command_lines.py --seed 1 --count 500

Each has one thing wrong: an option, a value, a student, a damaged file, options that exclude each other. The rule: exit
code 1 or 2, at most three lines with a hint, no traceback, no request to report it, and nothing passed over in silence.
Prints the lines that break it, and exits with 1 if there are any. The suite runs a short round,
tests/fuzz/test_command_lines.py.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--verbose", action="store_true", help="print every line and what it said")
    chosen = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", NO_COLOR="1")
    os.environ.pop("PIFLOW_DEBUG", None)
    from fuzz_inputs import build
    from fuzz_judge import judge
    from fuzz_lines import lines

    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder + "/cache"
        inputs = build(Path(folder))
        os.chdir(folder)
        rng = random.Random(chosen.seed)
        for number, line in enumerate(lines(chosen.seed, chosen.count, inputs)):
            started = time.perf_counter()
            outcome, faults = judge(line, rng)
            broken += bool(faults)
            if faults or chosen.verbose:
                seconds = time.perf_counter() - started
                print(
                    f"{number}: {'; '.join(faults) or 'as it should be'} ({seconds:.1f} s): {line.wrong}\n  piflow"
                    f" {shlex.join(line.arguments)}"
                )
                print("".join(f"    {text}\n" for text in outcome.err.splitlines()[:6]), end="", flush=True)
    print(f"{broken} of {chosen.count} lines break the rule")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
