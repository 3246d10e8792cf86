"""`offseg variants`, from a clone: `python scripts/list_variants.py --help`."""

import sys

from offseg_hf.commands.variants import main

if __name__ == "__main__":
    sys.exit(main())
