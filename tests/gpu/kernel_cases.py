"""The cases of Triton kernels in tests/core/kernels on a GPU: tables, maps and kernels against their twins in float64.

python tests/gpu/kernel_cases.py [--device cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import places
import torch

places.share()
from common import machine, write_json  # noqa: E402

CASES = [str(places.TESTS / "core" / "kernels" / f"{name}_cases.py") for name in ("triton", "momentum_triton")]


def rows_of(report: Path) -> list[dict]:
    """Each test of a junit report: its name, whether it passed, its seconds, and the end of what it said."""
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [child for child in case if child.tag in ("failure", "error")]
        row = {"case": case.get("name"), "passed": not faults, "seconds": float(case.get("time", 0))}
        rows.append(row | ({"said": str(faults[0].text)[-1000:]} if faults else {}))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(arguments)
    interpreted = "1" if options.device == "cpu" else "0"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "4" if options.device != "cpu" else "0",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        code = subprocess.run([*command, *CASES], env={**os.environ, "TRITON_INTERPRET": interpreted}).returncode
        rows = rows_of(report) if report.exists() else []
    if options.json is not None:
        write_json(
            options.json, {"benchmark": "kernel_cases", **machine(torch.device(options.device)), "results": rows}
        )
    return code


if __name__ == "__main__":
    raise SystemExit(main())
