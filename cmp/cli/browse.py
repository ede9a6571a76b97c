"""Write an HTML page that shows the contents of a pair store. It opens in any browser, without a server.

Example:
    cmp-motion browse my_pairs
    cmp-motion browse my_pairs report.html --pictures 30 --recipe r50_yfcc
    cmp-motion browse my_pairs bears.html --clip bear

The page shows the distributions of all scores, pairs with their flow and with the guidance points that training draws,
and rejected pairs with the reason. A field on the page filters the pairs by the name of their clip.

Exit status: 0; 1 if the page was written without records or samples that cannot be read, or cannot be written; 2 wrong
usage or input.
"""

from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import Parser, printable, say
from cmp.engine.errors import error_status
from cmp.engine.recipes import find_recipe
from cmp.files import check_paths, write_file
from cmp.interrupts import imports_can_be_interrupted


def main(argv: Sequence[str] | None = None, *, prog: str = "browse_pairs.py") -> int:
    """Write the page; returns the exit status."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("store", metavar="STORE", help="folder that prepare wrote")
    parser.add_argument(
        "out",
        nargs="?",
        metavar="OUT.html",
        help="the page, in an existing folder outside the store (default: STORE.html next to the store)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=12,
        metavar="N",
        help="pairs in the gallery (default 12); 0: none, and guidance points are not counted, which takes seconds",
    )
    parser.add_argument(
        "--recipe",
        default="r18_quickstart",
        metavar="CONFIG",
        help="pretraining recipe whose crops and guidance points are drawn (default %(default)s)",
    )
    parser.add_argument(
        "--clip", default="", metavar="TEXT", help="show only pairs of videos with this text in their path"
    )
    parser.add_argument("--rejected", type=int, default=100, metavar="N", help="rejected pairs listed (default 100)")
    args = parser.parse_args(argv)
    if args.pictures < 0 or args.rejected < 0:
        parser.error("--pictures and --rejected must be at least 0")
    store = Path(args.store).resolve()
    out = Path(args.out) if args.out else store.with_name(f"{store.name}.html")
    try:
        if out.is_dir():
            raise ValueError(f"{out} is a folder: name a file for the page")
        if out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"{out}: OUT.html must end in .html")
        check_paths(reads={"STORE": args.store}, writes={"OUT.html": out})
        recipe = find_recipe(args.recipe, ("pretrain",))
        with imports_can_be_interrupted():
            from data_prep.browse import report_html
        problems: list[str] = []
        page = report_html(
            store,
            recipe=recipe,
            clip=args.clip,
            num_pictures=args.pictures,
            num_rejected=args.rejected,
            problems=problems,
        )
        write_file(out, page.encode("utf-8", "backslashreplace"))
    except (OSError, ValueError) as error:
        say(prog, printable(str(error)))
        return error_status(error)
    for problem in problems:
        say(prog, f"{printable(problem)}; it is left out")
    print(f"wrote {printable(str(out))} ({len(page) / 1e6:.1f} MB)")
    return 1 if problems else 0
