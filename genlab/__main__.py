"""`python -m genlab`, the form that torchrun starts: `torchrun --nproc_per_node 2 -m genlab train ...`."""

import sys

from genlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
