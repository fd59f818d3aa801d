"""`python -m mmdpo.train` is `mmdpo train`: a module for launchers that start one process per GPU.

`accelerate launch -m mmdpo.train --config recipe.yaml`, or `torchrun --nproc_per_node 8 -m mmdpo.train --config …`.
"""

import sys

from mmdpo.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
