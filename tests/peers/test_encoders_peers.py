"""The encoders beside their peers: sentence-transformers for folders, plain peft for an adapter.

Needs MiniLM's weights (environment variable MINILM, else data/minilm), and for one test MPNet's
(MPNET, else data/mpnet).
"""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_qwen
import torch
import transformers

import contrastive as con
import encode as enc

sentence_transformers = pytest.importorskip("sentence_transformers")
peft = pytest.importorskip("peft")

MINILM = Path(os.environ.get("MINILM", "data/minilm"))
TEXTS = ["Heat Action Crime Thriller", "Toy Story Adventure Animation pixar fun " * 60, "M", *"abc"]
needs_minilm = pytest.mark.skipif(
    not (MINILM / "model.safetensors").is_file(), reason=f"no MiniLM weights in {MINILM}"
)
MPNET = Path(os.environ.get("MPNET", "data/mpnet"))
needs_mpnet = pytest.mark.skipif(
    not (MPNET / "model.safetensors").is_file(),
    reason=f"no MPNet weights in {MPNET}; `make mpnet` fetches them",
)


def vectors_of(folder):
    encoder = enc.load_encoder(*enc.find_encoder(str(folder)))
    return enc.embed(encoder, enc.tokenize(encoder, TEXTS))


def peers_vectors(folder):
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return model.encode(TEXTS)


def tune(monkeypatch, encoder, data, out, *more):
    line = ["contrastive.py", "--encoder", str(encoder), "--ratings", str(data[0])]
    line += ["--texts", str(data[1]), "--out", str(out), "--batch", "8", "--max-steps", "3"]
    monkeypatch.setattr(sys, "argv", [*line, "--warmup", "1", "--lr", "0.001", *more])
    con.main()
    return out


@needs_minilm
def test_minilm_equals_sentence_transformers():
    np.testing.assert_allclose(vectors_of(MINILM), peers_vectors(MINILM), atol=1e-6)


@needs_mpnet
def test_mpnet_equals_sentence_transformers():
    np.testing.assert_allclose(vectors_of(MPNET), peers_vectors(MPNET), atol=1e-6)


OTHERS = {  # two folders as they lie on the hub, one as sentence-transformers saves it today
    "roberta": transformers.RobertaConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
    "mpnet": transformers.MPNetConfig,
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("saved", [False, True])
def test_other_architectures_equal_sentence_transformers(tmp_path, kind, saved):
    """With a prompt, a cut text, no division by the length; as on the hub, and as saved anew."""
    folder = tiny_qwen.save_small(tmp_path / kind, OTHERS[kind])
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    prompts = {"prompts": {"film": "film: "}, "default_prompt_name": "film"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    theirs = peers_vectors(folder)
    if saved:
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        model.save(str(tmp_path / "saved"))
        folder = tmp_path / "saved"
    assert np.abs(np.linalg.norm(theirs, axis=1) - 1).min() > 0.1
    np.testing.assert_allclose(vectors_of(folder), theirs, atol=1e-6)


def test_a_tuned_folder_keeps_what_its_base_says_of_the_texts(data, tmp_path, monkeypatch):
    folder = tiny_qwen.save_small(tmp_path / "mpnet", transformers.MPNetConfig)
    prompts = {"prompts": {"film": "film: "}, "default_prompt_name": "film"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    tuned = tune(monkeypatch, folder, data, tmp_path / "tuned")
    assert enc.find_encoder(str(tuned))[0].prompt == "film: "
    np.testing.assert_allclose(vectors_of(tuned), peers_vectors(tuned), atol=1e-6)


@needs_minilm
def test_a_tuned_folder_opens_in_sentence_transformers(data, tmp_path, monkeypatch):
    tuned = tune(monkeypatch, MINILM, data, tmp_path / "tuned")
    ours = vectors_of(tuned)
    assert np.abs(ours - vectors_of(MINILM)).max() > 1e-3
    np.testing.assert_allclose(ours, peers_vectors(tuned), atol=1e-6)


def test_last_token_pooling_equals_sentence_transformers(data, tmp_path, monkeypatch):
    """The folder of a whole-tuned Qwen3 says that it pools the last token."""
    tiny = tiny_qwen.save_encoder(tmp_path / "tiny")
    tuned = tune(monkeypatch, tiny, data, tmp_path / "tuned")
    np.testing.assert_allclose(vectors_of(tuned), peers_vectors(tuned), atol=1e-6)


def test_an_adapter_opens_with_plain_peft(data, tmp_path, monkeypatch):
    tiny = tiny_qwen.save_encoder(tmp_path / "tiny")
    adapter = tune(monkeypatch, tiny, data, tmp_path / "adapter", "--lora")
    encoder = enc.load_encoder(*enc.find_encoder(str(tiny)), adapter=str(adapter))
    ids = enc.tokenize(encoder, TEXTS)
    model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(tiny), adapter)
    model.eval()
    with torch.no_grad():
        last = [model(input_ids=torch.tensor([x])).last_hidden_state[0, -1] for x in ids]
    theirs = torch.nn.functional.normalize(torch.stack(last), dim=1).numpy()
    np.testing.assert_allclose(enc.embed(encoder, ids), theirs, atol=1e-6)


@needs_minilm
def test_the_pair_loss_and_its_gradient_equal_sentence_transformers(data):
    """MultipleNegativesRankingLoss on the same pairs, dropout off: what the notebook's run used."""
    settings = con.Settings(str(MINILM), data[0], data[1], Path("out"))
    encoder = con.build(settings, *enc.find_encoder(str(MINILM)))
    examples = con.read_inputs(settings)[0]
    rows = np.arange(16)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    loss = con.backward(encoder, ids, examples, rows, budget=2048)[0]
    peer = sentence_transformers.SentenceTransformer(str(MINILM), device="cpu").eval()
    losses = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    ranking = losses.MultipleNegativesRankingLoss(peer)
    sides = [[tiny_qwen.TEXTS[i] for i in examples.items[rows, side]] for side in (0, 1)]
    theirs = ranking([peer.preprocess(side) for side in sides], labels=None)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    ours = dict(encoder.model.named_parameters())
    pairs = [(ours[n].grad, p.grad) for n, p in peer[0].auto_model.named_parameters() if n in ours]
    assert len(pairs) == len(ours)
    found, expected = (torch.cat([g.flatten() for g in side]) for side in zip(*pairs, strict=True))
    assert (found - expected).norm() < 1e-4 * expected.norm()
