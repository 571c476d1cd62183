"""`python -m piflow_cli` is the `piflow` command."""

from __future__ import annotations

import sys

from piflow_cli.app import main

sys.exit(main())
