"""A made-up run folder of the quickstart."""

import pytest

from tests.unit.report.makers import write_run


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run")
