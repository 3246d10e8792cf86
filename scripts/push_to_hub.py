"""`offseg publish`, from a clone: `python scripts/push_to_hub.py --help`."""

import sys

from offseg_hf.commands.publish import main

if __name__ == "__main__":
    sys.exit(main())
