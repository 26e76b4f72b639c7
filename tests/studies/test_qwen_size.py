"""qwen_size.py, the whole of it, on a model of some kilobytes."""

import contextlib
import json

import check_machine
import numpy as np
import pytest
import qwen_size
import safetensors
import tiny_qwen
import torch
import transformers

import contrastive
import encode as enc
import metrics

TINY = {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 128}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Runs it on two layers of a small shape, with a tokenizer of bytes."""
    monkeypatch.setattr(qwen_size, "SHAPE", TINY)
    tiny_qwen.save_tokenizer(tmp_path / "tokens")
    _, texts = tiny_qwen.save_data(tmp_path)
    texts.rename(tmp_path / "documents.txt")
    line = ["qwen_size.py", "--out", str(tmp_path), "--tokens", str(tmp_path / "tokens")]
    monkeypatch.setattr(qwen_size.sys, "argv", [*line, "--layers", "2", "--steps", "2"])
    return tmp_path


def test_the_study_on_a_tiny_model(study, monkeypatch):
    """Each command as a call, which takes no time to start."""

    scripts = {
        "encode.py": enc,
        "contrastive.py": contrastive,
        "tests/helpers/check_machine.py": check_machine,
    }

    def timed(script, *arguments, folder, stdout):
        monkeypatch.chdir(folder)
        with monkeypatch.context() as patch, contextlib.redirect_stdout(stdout):
            patch.setattr(qwen_size.sys, "argv", [script, *arguments])
            scripts[script].main()
        return {"seconds": 1.0, "peak_bytes": contrastive.peak_memory()}

    monkeypatch.setattr(qwen_size, "timed", timed)
    qwen_size.main()
    results = json.loads((study / "qwen_size.json").read_text())
    lora = 2 * 16 * ((64 + 64) + (64 + 32))  # r (in + out) over q and v of two layers
    assert results["trainable"] == lora
    assert results["parameters"] == results["base_parameters"] + lora
    assert results["lora_B"] == {"layers": 4, "not zero": 4}
    assert results["cosine"] < 1 and len(results["losses"]) == 2
    assert list(results["commands"]) == ["check", "encode", "two steps", "encode again"]
    assert all(0.7e9 <= estimate < 2e9 for estimate in results["estimate"].values())
    assert (study / "qwen_size.md").read_text() == qwen_size.report(results)
    assert not list(study.glob("qwen_size-*"))  # gigabytes


def test_the_shape_is_that_of_the_4b_model(monkeypatch):
    config = qwen_size.config_of(qwen_size.Settings())
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    assert model.num_parameters() == enc.QWEN_4B.parameters == 4_021_774_336


def test_another_number_of_parameters_is_refused(study):
    with pytest.raises(metrics.BadInput, match="not those of Qwen/Qwen3-Embedding-4B"):
        qwen_size.write_encoder(study / "model", qwen_size.Settings(tokens=str(study / "tokens")))


def test_the_weights_are_random_and_in_several_files(study):
    settings = qwen_size.Settings(tokens=str(study / "tokens"), layers=2)
    qwen_size.write_encoder(study / "model", settings)
    files = enc.weight_files(study / "model")
    assert len(files) == 4  # the embedding, two layers, the last norm
    assert enc.load_encoder(*enc.find_encoder(str(study / "model")), nf4=True, dtype="bfloat16")
    with safetensors.safe_open(files[1], "pt") as file:
        assert all(file.get_tensor(name).dtype == torch.bfloat16 for name in file.offset_keys())
        matrix = file.get_tensor("layers.0.mlp.up_proj.weight").float().numpy()
    assert np.std(matrix) == pytest.approx(0.02, rel=0.05)


def test_the_comparison_on_a_gpu_runs(study, monkeypatch):
    """Here on a CPU: what it asks of CUDA is answered for it."""
    for name, answer in (("synchronize", None), ("reset_peak_memory_stats", None)):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3e9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "G")
    settings = qwen_size.Settings(study, str(study / "tokens"), layers=2, steps=2)
    qwen_size.write_encoder(study / "model", settings)
    found = qwen_size.compare_on_gpu(study / "model", settings)
    assert [row[0] for row in found["ways"]] == [
        "padded batches of 4",
        "ours",
        "ours, checkpointing",
    ]
    assert {row[2] for row in found["ways"]} == {row[5] for row in found["ways"]} == {"3.00"}
    sizes = [[int(cell) for cell in row] for row in found["cards"]]
    assert [row[0] for row in sizes] == [8, 12, 16, 24]
    assert all(plain <= checkpointed for _, plain, checkpointed in sizes)
    record = {"machine": "M", "layers": 2, "base_parameters": 1, "texts": 16, "tokens": 99}
    record |= {"commands": {}, "losses": [1.0], "trainable": 1, "parameters": 2, "cosine": 0.5}
    record |= {"lora_B": {"layers": 4, "not zero": 4}, "step_seconds": 1.0, "gpu": found}
    assert "On all texts, G:" in qwen_size.report(record)
