"""Write the report of a run, or of two side by side.

python -m reports runs/quickstart                              writes runs/quickstart/report.html
python -m reports runs/quickstart --against runs/other         two runs in one page
python -m reports runs/quickstart --out /tmp/report.html
python -m reports runs/quickstart/eval/sft                     one evaluation by itself, wherever it lies
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from grounding.errors import FoveaError
from reports.page import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reports", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder, for instance runs/quickstart, or the folder of one evaluation")
    parser.add_argument("--against", metavar="RUN", help="another run to show beside it")
    parser.add_argument("--out", metavar="FILE", help="where to write; report.html in the run folder by default")
    args = parser.parse_args(argv)
    try:
        path = build(args.run, args.against, args.out)
    except FoveaError as error:
        print(f"reports: {error}", file=sys.stderr)
        return error.exit_code
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
