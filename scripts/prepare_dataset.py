"""`offseg prepare`, from a clone: `python scripts/prepare_dataset.py --help`."""

import sys

from offseg_hf.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())
