"""Documents, pooling, batching, and the encoders that need no download."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_qwen
import torch

import encode as enc
import metrics
from metrics import BadInput

MINILM = Path(os.environ.get("MINILM", "data/minilm"))
needs_minilm = pytest.mark.skipif(
    not (MINILM / "model.safetensors").is_file(), reason=f"no MiniLM weights in {MINILM}"
)


def load(folder, **options):
    return enc.load_encoder(*enc.find(str(folder)), **options)


# Documents


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("published", "Heat Crime Drama heist al pacino heist"),
        ("report", "Heat Crime Drama heist al pacino"),
        ("no-tags", "Heat Crime Drama"),
    ],
)
def test_styles(style, expected):
    tags = [["Heist", "Al Pacino", "heist"]]
    assert enc.documents(["Heat (1995)"], ["Crime|Drama"], tags, style) == [expected]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Heat (1995) ", "Heat"),
        ("Babylon 5", "Babylon 5"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey"),
        (
            "City (of) Lost Children, The (Cité, La) (1995)",
            "City (of) Lost Children, The (Cité, La)",
        ),
        ("Two (1999) (2000)", "Two (1999)"),
        ("Line\nbreak (1990)", "Line break"),
    ],
)
def test_titles(title, expected):
    assert enc.documents([title], ["(no genres listed)"], [[]]) == [expected]


def test_a_list_that_is_short_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        enc.documents(["Heat (1995)", "Jumanji (1995)"], ["Crime"], [[], []])


def test_texts_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo\u2028still two\n", encoding="utf-8")
    assert enc.read_texts(path) == ["one", "two\u2028still two"]
    path.write_text("one\n\nthree\n")
    with pytest.raises(BadInput, match="line 2 is empty"):
        enc.read_texts(path)
    with pytest.raises(BadInput, match="missing"):
        enc.read_texts(tmp_path / "none.txt")


# Batches and pooling


def test_batches_cover_all_and_keep_the_budget():
    lengths = np.sort(np.random.default_rng(0).integers(1, 60, 300))
    runs = enc.batches(lengths, budget=128)
    assert [start for start, _ in runs] == [0] + [end for _, end in runs[:-1]]
    assert runs[-1][1] == 300
    assert all((end - start) * lengths[end - 1] <= 128 for start, end in runs)


def test_batches_cost_least():
    # One batch: 4 x 10 + 5 = 45. {1, 1, 1} and {10}: 3 + 5 + 10 + 5 = 23.
    assert enc.batches([1, 1, 1, 10], budget=100, launch=5) == [(0, 3), (3, 4)]
    # With a launch of 50: 90 against 113.
    assert enc.batches([1, 1, 1, 10], budget=100, launch=50) == [(0, 4)]
    assert enc.batches([7, 300], budget=100) == [(0, 1), (1, 2)]  # a long text goes alone


def test_pooling_by_a_hand_made_mask():
    hidden = torch.tensor([[[1.0, 0], [3, 2], [9, 9]], [[4, 4], [5, 5], [0, 1]]])  # (2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert enc.pool(hidden, mask, "last").tolist() == [[3, 2], [0, 1]]
    assert enc.pool(hidden, mask, "mean").tolist() == [[2, 1], [3, pytest.approx(10 / 3)]]


def test_last_token_where_the_pad_token_is_the_end_token(tiny):
    encoder = load(tiny)
    ids = enc.tokenize(encoder, ["short", "a much longer text"])
    end = encoder.tokenizer.pad_token_id
    assert end == encoder.tokenizer.eos_token_id == ids[0][-1] == ids[1][-1]
    alone = encoder.model(input_ids=torch.tensor([ids[0]])).last_hidden_state[0, -1]
    with torch.no_grad():
        padded = enc.forward(encoder, ids)[0]
    torch.testing.assert_close(padded, alone / alone.norm(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("nf4", [False, True])
def test_padded_equals_alone(tiny, nf4):
    encoder = load(tiny, nf4=nf4)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    together = enc.embed(encoder, ids, budget=10_000)
    alone = np.concatenate([enc.embed(encoder, [x]) for x in ids])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_order_is_restored(tiny):
    encoder = load(tiny)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    shuffled = np.random.default_rng(1).permutation(len(ids))
    there = enc.embed(encoder, [ids[i] for i in shuffled], budget=64)
    np.testing.assert_allclose(there, enc.embed(encoder, ids, budget=64)[shuffled], atol=2e-6)


def test_dims_are_the_first_renormalised(tiny):
    encoder = load(tiny)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    whole, cut = enc.embed(encoder, ids), enc.embed(encoder, ids, dims=16)
    expected = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    with pytest.raises(BadInput, match="only 64 dimensions"):
        enc.embed(encoder, ids, dims=65)


def test_a_text_of_10_000_characters_is_cut(tiny, capsys):
    encoder = load(tiny)
    ids = enc.tokenize(encoder, ["fine", "x" * 10_000])
    assert len(ids[1]) == encoder.facts.max_length == 8192
    assert ids[1][-1] == encoder.tokenizer.eos_token_id
    assert capsys.readouterr().out == "1 of 2 texts cut at 8192 tokens\n"


# Refusals


def test_missing_folder_and_unknown_name():
    with pytest.raises(BadInput, match=r"no-such-folder holds no config\.json"):
        enc.find("no-such-folder")
    with pytest.raises(BadInput, match=r"elsewhere holds no config\.json"):
        enc.find("minilm", "elsewhere")


def test_unknown_family(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(BadInput, match="'gpt2' is none of bert, qwen3"):
        enc.find(str(tmp_path))


def test_wrong_checksum_and_wrong_revision(tiny, tmp_path):
    with pytest.raises(BadInput, match="is not sentence-transformers/all-MiniLM-L6-v2's"):
        enc.load_encoder(*enc.find("minilm", str(tiny)))
    other = tmp_path / "snapshots" / "abc"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(BadInput, match="another revision of Qwen/Qwen3-Embedding-4B"):
        enc.find("qwen3-4b", str(other))


def test_hub_out_of_reach(monkeypatch):
    def offline(*args, **options):
        raise FileNotFoundError("no network\nlong story")

    monkeypatch.setattr(enc, "snapshot_download", offline)
    with pytest.raises(BadInput, match=r"\(no network\); pass a folder .* --weights"):
        enc.find("Qwen/Qwen3-Embedding-0.6B")


def test_tokenizer_without_an_end_token(tmp_path):
    tiny_qwen.save_encoder(tmp_path)
    file = tmp_path / "tokenizer.json"
    text = file.read_text()
    assert '"post_processor"' in text
    tokenizer = tiny_qwen.Tokenizer.from_file(str(file))
    tokenizer.post_processor = tiny_qwen.processors.TemplateProcessing(single="$A")
    tokenizer.save(str(file))
    with pytest.raises(BadInput, match="appends no end token"):
        load(tmp_path)


def test_command_line_refuses_in_one_line(tmp_path):
    command = [sys.executable, "encode.py", "--encoder", "nowhere", "--texts", "none.txt"]
    command += ["--out", str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "encode.py: error: none.txt is missing; `python main.py prepare` writes it\n"
    )
    assert list(tmp_path.iterdir()) == []


# MiniLM itself


@needs_minilm
def test_minilm_has_the_recorded_vectors():
    """First four dimensions, recorded with sentence-transformers 6.2.0."""
    encoder = enc.load_encoder(*enc.find("minilm", str(MINILM)))
    texts = ["Toy Story Adventure Animation Children Comedy Fantasy pixar pixar fun", "Heat"]
    vectors = enc.embed(encoder, enc.tokenize(encoder, texts))
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(vectors[:, :4], RECORDED, atol=1e-6)


RECORDED = [
    [-0.042714, -0.00591231, 0.02587674, -0.01931572],
    [-0.06501702, 0.0335464, 0.00026768, 0.11502702],
]


@needs_minilm
def test_minilm_is_cut_at_256_and_written_the_same_twice(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("word " * 2000 + "\nHeat\n")
    command = [sys.executable, "encode.py", "--encoder", "minilm", "--weights", str(MINILM)]
    digests = []
    for name in ("a.safetensors", "a.safetensors"):
        out = tmp_path / name
        done = subprocess.run(
            [*command, "--texts", str(texts), "--out", str(out)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "1 of 2 texts cut at 256 tokens\n"
        digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert metrics.load(out, inputs=[texts])["embeddings"].dtype == np.float32
    assert metrics.provenance(out)["inputs"]["model.safetensors"] == enc.MINILM.sha256
