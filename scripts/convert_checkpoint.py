"""`offseg convert`, from a clone: `python scripts/convert_checkpoint.py --help`."""

import sys

from offseg_hf.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
