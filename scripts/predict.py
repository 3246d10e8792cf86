"""`offseg predict`, from a clone: `python scripts/predict.py --help`."""

import sys

from offseg_hf.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
