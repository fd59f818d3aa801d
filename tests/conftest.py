"""Before anything of mmdpo is imported: no network, one thread per worker, and tensor shapes checked at run time."""

import os

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
install_import_hook("mmdpo", "shape_checks.check_shapes")

# The first call of a function may import or compile something; how long it takes says nothing about it.
settings.register_profile("mmdpo", deadline=None)
settings.load_profile("mmdpo")

if "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)  # workers would fight for the cores
