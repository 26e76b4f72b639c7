"""check_machine.py: memory of the 4B shape, time by a clock of its own, and what is refused."""

import dataclasses
import re
from pathlib import Path

import check_machine
import pytest
import tiny_qwen
import torch
import transformers

import contrastive as con
import encode as enc
from metrics import BadInput


def settings(tiny, data, **changes):
    plain = {"encoder": str(tiny), "ratings": data[0], "texts": data[1], "out": Path("out")}
    return check_machine.Settings(**(plain | {"lora": True, "nf4": True, "batch": 8} | changes))


def build(s):
    return con.build(s, *enc.find_encoder(s.encoder))


def test_memory_need():
    """2.65 GB of weights (NF4 linears, bf16 embedding); activations in proportion to the tokens."""
    config = transformers.Qwen3Config(**tiny_qwen.QWEN_4B)
    s = settings("qwen3-4b", ("", ""), dtype="bfloat16")
    found = check_machine.memory_need(config, enc.QWEN_4B, s, tokens=128)
    assert found["weights"] == pytest.approx(2.65e9, rel=0.01)
    assert found["training"] == 16 * 5_898_240
    assert 4e6 < found["activations"] / 128 < 8e6
    twice = check_machine.memory_need(config, enc.QWEN_4B, s, tokens=256)
    assert twice["activations"] == pytest.approx(2 * found["activations"], rel=0.01)
    less = settings("qwen3-4b", ("", ""), dtype="bfloat16", checkpointing=True)
    recomputed = check_machine.memory_need(config, enc.QWEN_4B, less, tokens=128)["activations"]
    assert recomputed < 0.1 * found["activations"]


def test_memory_need_of_an_encoding():
    """The embedding of 151,665 x 2,560 in bf16, twice while it is loaded; or many tokens' work."""
    config = transformers.Qwen3Config(**tiny_qwen.QWEN_4B, dtype="bfloat16", use_cache=False)
    s = settings("qwen3-4b", ("", ""), dtype="bfloat16")
    found = check_machine.memory_need(config, enc.QWEN_4B, s, tokens=256)
    assert found["encoding"] == 2 * 2 * 151_665 * 2560
    many = dataclasses.replace(s, budget=64 * 256)
    more = check_machine.memory_need(config, enc.QWEN_4B, many, tokens=256)
    assert more["encoding"] == pytest.approx(64 * found["activations"] / 36)


def test_the_worst_step_has_the_longest_texts_each_once(tiny, data, monkeypatch):
    """Pairs in batches of 8: 16 texts, all of 3 tokens but one; in one batch of 16 x 7 tokens."""
    asked = []
    each = dict.fromkeys(("weights", "training", "activations", "encoding"), 1e9)
    monkeypatch.setattr(check_machine, "memory_need", lambda *a: asked.append(a[-1]) or each)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    s = settings(tiny, data)
    ids = [[1] * 2] * 9 + [[1] * 7] + [[1] * 3] * 15
    found = check_machine.bytes_needed(s, None, None, ids, con.read_inputs(s)[0])
    assert asked == [16 * 7]
    assert found == (
        check_machine.SLACK * 2e9 + check_machine.PROCESS,
        check_machine.SLACK * 3e9 + check_machine.PROCESS,
    )


@pytest.fixture
def hub(data, tmp_path, monkeypatch):
    """The small files of Qwen3-Embedding-4B, no CUDA GPU, and all that was asked of the hub."""
    config = transformers.Qwen3Config(**tiny_qwen.QWEN_4B, dtype="bfloat16")
    config.save_pretrained(tmp_path)
    tiny_qwen.save_tokenizer(tmp_path)
    tiny_qwen.save_pooling(tmp_path, 2560)
    asked = []

    def download(name, revision, allow_patterns):
        asked.extend(allow_patterns)
        return tmp_path

    monkeypatch.setattr(enc, "snapshot_download", download)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return asked


def memory(monkeypatch, gigabytes):
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": gigabytes * 1e9}
    monkeypatch.setattr(check_machine.os, "sysconf", pages.get)


def test_check_refuses_by_memory_before_anything_large_is_fetched(hub, data, monkeypatch):
    """8 GB, of which 0.9: enough to encode (6.0), not to tune; 6 GB are too little for either."""
    s = settings("qwen3-4b", data, dtype="bfloat16", batch=4)
    for gigabytes, only in ((8, False), (6, False), (6, True)):
        memory(monkeypatch, gigabytes)
        with pytest.raises(BadInput, match="too little memory; try a smaller model") as refusal:
            check_machine.check(dataclasses.replace(s, encode_only=only))
        assert ("or `make qwen CPU=1`" in str(refusal.value)) == (gigabytes == 8)
    assert hub and not any("safetensors" in pattern for pattern in hub)
    memory(monkeypatch, 8)
    with pytest.raises(BadInput, match="holds no safetensors file"):
        check_machine.check(dataclasses.replace(s, encode_only=True))
    assert "*.safetensors" in hub


def test_check_refuses_by_time_and_names_both_times(tiny, data, monkeypatch, capsys):
    monkeypatch.setattr(check_machine, "probe", lambda *_: (6000, 100 * 3600))
    with pytest.raises(
        BadInput,
        match=r"^on this CPU: about 100 minutes to encode the texts once, 100 hours to tune; "
        r"a CUDA GPU takes minutes; `make qwen CPU=1` makes the base rows all the same, "
        r"contrastive.py does not ask$",
    ):
        check_machine.check(settings(tiny, data))
    check_machine.check(settings(tiny, data, encode_only=True))
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "on this CPU: about 100 minutes to encode the texts once"


def test_check_tells_memory_and_time_on_a_cpu(tiny, data, capsys):
    check_machine.check(settings(tiny, data))
    lines = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d GB"
    assert re.fullmatch(f"needs {number} to encode, {number} to tune, of {number}", lines[0])
    told = r"on this CPU: about \d+ minutes to encode the texts once, \d+ minutes to tune"
    assert re.fullmatch(told, lines[1])


def test_probe_tells_the_time_of_all_texts_and_of_all_steps(tiny, data, monkeypatch):
    """80 pairs in batches of 8, 2 passes: 20 steps; a clock that ticks once a step or text."""
    clock = iter(range(1000))
    monkeypatch.setattr(check_machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(con, "backward", lambda *_: next(clock))
    monkeypatch.setattr(enc, "embed", lambda e, ids, budget, items: [next(clock) for _ in items])
    s, ids = settings(tiny, data), [[0] * 5] * 24
    encoder, examples = build(s), con.read_inputs(s)[0]
    found = check_machine.probe(encoder, ids, examples, s, texts=6, steps=3)
    assert found == ((6 + 1) * 24 / 6, (3 + 1) / 3 * 20)
    few = dataclasses.replace(s, max_steps=6)
    assert check_machine.probe(encoder, ids, examples, few, steps=1)[1] == (1 + 1) * 6
    encode_only = dataclasses.replace(s, encode_only=True)
    assert check_machine.probe(encoder, ids, None, encode_only, texts=24) == (24 + 1, 0)
