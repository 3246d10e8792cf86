"""`offseg train`, from a clone: `python scripts/train.py --help`."""

import sys

from offseg_hf.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
