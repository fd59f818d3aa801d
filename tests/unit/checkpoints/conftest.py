import pytest

from mmdpo.checkpoints import bunny
from tiny_bunny import TOWER, TOWER_SETTINGS, write_bunny


@pytest.fixture
def tiny_tower(monkeypatch):
    """Makes the tower of the tiny checkpoint one that is known."""
    monkeypatch.setitem(bunny.VISION_TOWERS, TOWER, TOWER_SETTINGS)


@pytest.fixture
def original(tmp_path, tiny_tower):
    return write_bunny(tmp_path / "original")


@pytest.fixture
def converted(original, tmp_path):
    bunny.convert_bunny(original, tmp_path / "converted")
    return tmp_path / "converted"
