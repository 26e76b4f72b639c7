"""What several test files share: a tiny random Qwen3, and small data sets.

Nothing here imports torch or numba before a test asks for it: tests/test_metrics.py runs where only
NumPy and pytest are installed.
"""

import functools
import os
import shutil
import signal

import pytest

os.environ.pop("SHARED_SCREEN", None)  # which `make test` sets
# Models here are tiny: threads would mostly wait for each other, and busily where they are Numba's.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

# Tests send these to processes that they start, and those of nohup or "&" would ignore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
def few_draws(monkeypatch):
    """Intervals of a hundred draws: what they are is tested with the metrics."""
    import metrics

    few = functools.partial(metrics.paired_bootstrap, draws=100)
    monkeypatch.setattr(metrics, "paired_bootstrap", few)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """An out/ folder made from a small MovieLens folder; for reading only."""
    import small

    return small.make_artefacts(small.make_folder(tmp_path_factory.mktemp("made") / "data"))


@pytest.fixture
def artefacts(folder, made_once, few_draws):
    """The out/ folder made from `folder`, beside it."""
    return shutil.copytree(made_once, folder.parent / "out")
