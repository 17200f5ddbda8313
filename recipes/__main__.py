"""The recipes of this repository: what there is, what one of them is, and the page about them.

python -m recipes list
python -m recipes show multi_image_rl_qwen2_5_vl_7b
python -m recipes systems docs/systems.md       # write the table of systems anew
"""

from __future__ import annotations

import sys
from pathlib import Path

from grounding.command_line import CommandParser, run_command
from grounding.io import replacing
from recipes.catalog import FOLDER, head_of, heads, with_systems


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = CommandParser(prog="python -m recipes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name, system and status of every recipe")
    show = commands.add_parser("show", help="print what a recipe's head says, and the recipe")
    show.add_argument("name")
    page = commands.add_parser("systems", help="write the table of systems in a page of documentation anew")
    page.add_argument("file", type=Path)
    args = parser.parse_args(arguments)
    if args.command == "list":
        found = heads()
        width = max(len(head.name) for head in found)
        for head in found:
            print(f"{head.name:<{width}}  {head.facts['system']}; {head.facts['status']}")
    elif args.command == "show":
        head = head_of(args.name)
        print(head.title)
        for name, text in {**head.facts, "stages": head.stages}.items():
            print(f"  {name:<10}  {text}")
        print(f"\n{head.file.read_text(encoding='utf-8')}")
        print(f"Check it with: python train.py configs/recipes/{head.file.relative_to(FOLDER).as_posix()} --dry-run")
    else:
        text = with_systems(args.file.read_text(encoding="utf-8"))
        with replacing(args.file) as part:
            part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
