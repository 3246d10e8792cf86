"""`python -m offseg_hf COMMAND …` is `offseg COMMAND …`, also below `accelerate launch -m` and `torchrun -m`."""

import sys

from offseg_hf.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
