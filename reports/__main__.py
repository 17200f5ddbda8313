"""Write the report of a run, or of two side by side.

python -m reports runs/quickstart                              writes runs/quickstart/report.html
python -m reports runs/quickstart --against runs/other         two runs in one page
python -m reports runs/quickstart --out /tmp/report.html
python -m reports runs/quickstart/eval/sft                     one evaluation by itself, wherever it lies
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from grounding.command_line import CommandParser, run_command
from reports.page import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(lambda: _write(argv))


def _write(argv: Sequence[str] | None) -> None:
    parser = CommandParser(prog="python -m reports", description=__doc__)
    parser.add_argument("run", help="run folder, for instance runs/quickstart, or the folder of one evaluation")
    parser.add_argument("--against", metavar="RUN", help="another run to show beside it")
    parser.add_argument("--out", metavar="FILE", help="where to write (RUN/report.html)")
    args = parser.parse_args(argv)
    print(build(args.run, args.against, args.out))


if __name__ == "__main__":
    sys.exit(main())
