"""Write an HTML page that shows what a pair store holds; open it in any browser, no server needed.

python tools/browse_pairs.py my_pairs
python tools/browse_pairs.py my_pairs report.html --pictures 30
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from data_prep.browse import report_html


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("store", metavar="STORE", help="folder that tools/prepare_flow.py wrote")
    parser.add_argument("out", nargs="?", metavar="OUT.html", help="the page (default: STORE.html beside the store)")
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="pairs in the gallery (default 12)")
    parser.add_argument("--rejected", type=int, default=100, metavar="N", help="rejected pairs listed (default 100)")
    args = parser.parse_args(argv)
    if args.pictures < 0 or args.rejected < 0:
        parser.error("--pictures and --rejected must be at least 0")
    store = Path(args.store).resolve()
    out = Path(args.out) if args.out else store.with_name(f"{store.name}.html")
    try:
        if out.is_dir():
            raise ValueError(f"{out} is a folder: name a file for the page")
        page = report_html(store, num_pictures=args.pictures, num_rejected=args.rejected)
        temporary = out.with_name(f"{out.name}.part")
        temporary.write_text(page, "utf-8")
        os.replace(temporary, out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out} ({len(page) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
