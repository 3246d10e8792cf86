"""`offseg export`, from a clone: `python scripts/export_onnx.py --help`."""

import sys

from offseg_hf.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
