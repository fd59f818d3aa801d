"""Before anything of mmdpo is imported: no network, one thread per worker, and tensor shapes checked at run time.

Nothing is read from or written into the caches of whoever runs the tests.
"""

import atexit
import os
import shutil
import tempfile
import uuid

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mmdpo-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
install_import_hook("mmdpo", "shape_checks.check_shapes")

# The first call of a function may import or compile something; how long it takes says nothing about it.
settings.register_profile("mmdpo", deadline=None)
settings.load_profile("mmdpo")

if "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)  # workers would fight for the cores


@pytest.fixture(autouse=True)
def own_reference_cache(tmp_path_factory, monkeypatch):
    """Gives every test an empty cache of references, so that none depends on what another has scored."""
    home = tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex
    monkeypatch.setenv("HF_HOME", str(home))  # for processes that the test starts
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(home))
