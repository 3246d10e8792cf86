"""`offseg quickstart`, from a clone: `python scripts/quickstart.py --help`."""

import sys

from offseg_hf.commands.quickstart import main

if __name__ == "__main__":
    sys.exit(main())
