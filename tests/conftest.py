"""What several test files share: a tiny random Qwen3, and small data sets.

Nothing here imports torch or numba before a test asks for it: tests/test_metrics.py runs where only
NumPy and pytest are installed.
"""

import os

import pytest

os.environ.pop("SHARED_SCREEN", None)  # which `make test` sets


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    import tiny_qwen

    return tiny_qwen.save_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A small data set with four audiences."""
    import tiny_qwen

    return tiny_qwen.save_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def folder(tmp_path):
    """A small MovieLens folder."""
    import small

    return small.make_folder(tmp_path / "data")


@pytest.fixture
def artefacts(folder):
    """An out/ folder made from it."""
    import small

    return small.make_artefacts(folder)
