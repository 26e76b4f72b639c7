"""What several test files share: a tiny random Qwen3 and a small data set with four audiences."""

import pytest
import tiny_qwen


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_qwen.save_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tiny_qwen.save_data(tmp_path_factory.mktemp("data"))
