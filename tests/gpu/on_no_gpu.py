"""Cases of the numerics on the GPU that is not there: their kernels are compiled and counted, and nothing is computed.

    python tests/gpu/on_no_gpu.py CASE ...        under the library of tests/fake_cuda

It prints a JSON object a case: its rows, and the launches.
"""

from __future__ import annotations

import json
import sys

import numerics
import places
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.append(str(places.TESTS / "fake_cuda"))
from kernels import Launches
from watching import Watch


def main(names: list[str]) -> None:
    for case in numerics.CASES:
        if case.name not in names:
            continue
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        mode.cache_enabled = False
        with mode, Watch(mode) as watch, Launches() as launches:
            watch.host_is_real = True
            rows = numerics.measure(case, torch.device("cuda", 0))
        print(json.dumps({"case": case.name, "rows": len(rows), "launches": dict(launches.counts)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
