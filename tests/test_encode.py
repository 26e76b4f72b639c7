"""Pooling, batching, whole models, and the encoders that need no download."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
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
    return enc.load_encoder(*enc.find_encoder(str(folder)), **options)


# Texts


def test_texts_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo\u2028still two\n", encoding="utf-8")
    assert enc.read_texts(path) == ["one", "two\u2028still two"]
    path.write_text("one\n\nthree\n")
    with pytest.raises(BadInput, match="line 2 is empty"):
        enc.read_texts(path)
    with pytest.raises(BadInput, match="missing"):
        enc.read_texts(tmp_path / "none.txt")
    for size in (1_000_000, 1_000_001):  # more would take the tokenizer's memory
        path.write_text("one\n" + size * "x" + "\n")
        if size == 1_000_000:
            assert len(enc.read_texts(path)[1]) == size
    with pytest.raises(BadInput, match="line 2 has 1,000,001 characters; 1,000,000 fit"):
        enc.read_texts(path)


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
    assert enc.pool(hidden, mask, "lasttoken").tolist() == [[3, 2], [0, 1]]
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


def test_some_texts_of_many(tiny):
    encoder = load(tiny)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    some = enc.embed(encoder, ids, items=np.array([5, 2]))
    np.testing.assert_allclose(some, enc.embed(encoder, ids)[[5, 2]], atol=2e-6)


def test_a_text_of_10_000_characters_is_cut(tiny):
    encoder, notes = load(tiny), []
    ids = enc.tokenize(encoder, ["fine", "x" * 10_000], notes.append)
    assert len(ids[1]) == encoder.facts.max_length == 8192
    assert ids[1][-1] == encoder.tokenizer.eos_token_id
    assert notes == ["1 of 2 texts cut at 8192 tokens"]


# Refusals


def test_missing_folder_and_unknown_name(tiny):
    known = r"an encoder is a folder with a config\.json, or one of minilm, mpnet"
    with pytest.raises(BadInput, match=f"no-such-folder, with files in no-such-folder: {known}"):
        enc.find_encoder("no-such-folder")
    with pytest.raises(BadInput, match=f"minilm, with files in elsewhere: {known}"):
        enc.find_encoder("minilm", "elsewhere")
    with pytest.raises(BadInput, match=f"minlm, with files in {tiny}: {known}"):
        enc.find_encoder("minlm", str(tiny))


def test_wrong_checksum(tiny):
    with pytest.raises(BadInput, match="is not sentence-transformers/all-MiniLM-L6-v2's"):
        enc.load_encoder(*enc.find_encoder("minilm", str(tiny)))


def test_hub_out_of_reach(monkeypatch):
    def offline(*args, **options):
        raise FileNotFoundError("no network\nlong story")

    monkeypatch.setattr(enc, "snapshot_download", offline)
    with pytest.raises(BadInput, match=r"pass a folder .* --weights \(FileNotFoundError: no net"):
        enc.find_encoder("qwen3-0.6b")


def test_tokenizer_without_an_end_token(tmp_path, monkeypatch):
    tiny_qwen.save_encoder(tmp_path)
    file = tmp_path / "tokenizer.json"
    text = file.read_text()
    assert '"post_processor"' in text
    tokenizer = tiny_qwen.Tokenizer.from_file(str(file))
    tokenizer.post_processor = tiny_qwen.processors.TemplateProcessing(single="$A")
    tokenizer.save(str(file))
    assert load(tmp_path)  # as sentence-transformers reads it
    named = replace(enc.QWEN_06B, sha256="", parameters=0)
    monkeypatch.setitem(enc.ENCODERS, "qwen3-0.6b", named)
    with pytest.raises(BadInput, match="appends no end token"):
        enc.load_encoder(*enc.find_encoder("qwen3-0.6b", str(tmp_path)))


def test_command_line_refuses_in_one_line(tmp_path):
    command = [sys.executable, "encode.py", "--encoder", "nowhere", "--texts", "none.txt"]
    command += ["--out", str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "encode.py: error: none.txt is missing; `python main.py prepare` writes it\n"
    )
    assert list(tmp_path.iterdir()) == []


# What a folder of sentence-transformers says


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_qwen.save_bert(tmp_path_factory.mktemp("bert"))


POOLING, PROMPTS = "1_Pooling/config.json", "config_sentence_transformers.json"
SIZES, MODULES = "sentence_bert_config.json", "modules.json"
TYPES = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]


def said(source, folder, **files):
    """A copy of a folder, some of its JSON files written anew."""
    shutil.copytree(source, folder)
    for name, content in files.items():
        (folder / globals()[name]).write_text(json.dumps(content))
    return folder


def modules(*types):
    paths = ["", "1_Pooling", "2_Other", "3_Other"]
    return [{"type": kind, "path": path} for kind, path in zip(types, paths, strict=False)]


def test_the_named_encoders_folders_and_a_tiny_one(tiny, bert):
    facts, folder = enc.find_encoder(str(bert))
    assert (folder, facts.hub) == (bert, str(bert)) and facts.revision == ""
    assert (facts.pooling, facts.max_length, facts.unit, facts.prompt) == ("mean", 256, True, "")
    facts, _ = enc.find_encoder(str(tiny))
    assert (facts.pooling, facts.max_length) == ("lasttoken", 8192)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"POOLING": {"pooling_mode": "lasttoken"}}, {"pooling": "lasttoken"}),
        ({"POOLING": {"pooling_mode": "mean", "include_prompt": False}}, {"pooling": "mean"}),
        ({"SIZES": {"max_seq_length": 20}}, {"max_length": 20}),
        ({"SIZES": {}}, {"max_length": 512}),  # what the model can take
        ({"MODULES": modules(*TYPES[:2])}, {"unit": False}),
        (
            {
                "MODULES": modules(
                    *(f"sentence_transformers.base.x.{t.split('.')[2]}" for t in TYPES)
                )
            },
            {"unit": True},
        ),
        ({"PROMPTS": {"prompts": {"a": "A: "}, "default_prompt_name": "a"}}, {"prompt": "A: "}),
        ({"PROMPTS": {"prompts": {"a": "A: "}, "default_prompt_name": None}}, {"prompt": ""}),
    ],
)
def test_a_folder_says_how_it_is_read(bert, tmp_path, files, found):
    facts, _ = enc.find_encoder(str(said(bert, tmp_path / "new", **files)))
    assert {name: getattr(facts, name) for name in found} == found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"MODULES": modules(*TYPES[:2], "sentence_transformers.models.Dense")},
            "modules .*Pooling, Dense, not",
        ),
        (
            {"MODULES": modules(*TYPES[:2], "x.Dense", TYPES[2])},
            r"x\.Dense, Normalize, not Transf",
        ),
        ({"MODULES": modules("custom.Transformer", TYPES[1])}, r"modules custom\.Transformer"),
        (
            {"MODULES": [{"type": TYPES[0], "path": "0_T"}, *modules(*TYPES)[1:]]},
            "an encoder in a subfolder",
        ),
        ({"MODULES": {}}, "not a complete folder of sentence-transformers"),
        ({"MODULES": [3]}, "not a complete folder of sentence-transformers"),
        ({"POOLING": {"pooling_mode_cls_token": True}}, "asks for pooling 'cls_token'"),
        ({"POOLING": {"pooling_mode": ["mean", "max"]}}, r"asks for pooling \['mean', 'max'\]"),
        (
            {"POOLING": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}},
            r"asks for pooling 'mean \+ max'",
        ),
        ({"POOLING": {}}, "asks for pooling ''"),
        ({"POOLING": []}, "not a complete folder of sentence-transformers"),
        ({"SIZES": {"max_seq_length": "many"}}, "asks for texts of 'many' tokens"),
        ({"SIZES": {"max_seq_length": -1}}, "asks for texts of -1 tokens"),
        ({"SIZES": {"max_seq_length": 513}}, "asks for more than 512 tokens"),
        ({"SIZES": {"do_lower_case": True}}, "asks for do_lower_case"),
        ({"PROMPTS": {"truncate_dim": 8}}, "asks for truncate_dim"),
        ({"PROMPTS": {"prompts": {"a": 3}, "default_prompt_name": "a"}}, "asks for the prompt 3"),
        ({"PROMPTS": {"default_prompt_name": "a"}}, "KeyError: 'prompts'"),
        (
            {
                "PROMPTS": {"prompts": {"a": "A: "}, "default_prompt_name": "a"},
                "POOLING": {"pooling_mode": "mean", "include_prompt": False},
            },
            "asks for a prompt outside the pooling",
        ),
    ],
)
def test_what_is_not_built_in_is_refused(bert, tmp_path, files, message):
    with pytest.raises(BadInput, match=message):
        enc.find_encoder(str(said(bert, tmp_path / "new", **files)))


@pytest.mark.parametrize("name", [MODULES, POOLING])
def test_a_folder_without_its_modules_or_its_pooling_is_refused(bert, tmp_path, name):
    folder = said(bert, tmp_path / "new")
    (folder / name).unlink()
    with pytest.raises(BadInput, match=rf"not a complete folder .*FileNotFoundError: .*{name}"):
        enc.find_encoder(str(folder))


def test_an_encoder_with_a_decoder_is_refused(bert, tmp_path):
    folder = changed(bert, tmp_path / "t5", is_encoder_decoder=True)
    with pytest.raises(BadInput, match="asks for a decoder: this is not built in"):
        enc.find_encoder(str(folder))


def test_without_normalize_the_length_stays_and_the_direction_is_the_same(bert, tmp_path):
    folder = said(bert, tmp_path / "new", MODULES=modules(*TYPES[:2]))
    unit, plain = (enc.embed(e, enc.tokenize(e, ["a", "b c"])) for e in (load(bert), load(folder)))
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    np.testing.assert_allclose(plain / lengths, unit, atol=1e-6)


def test_the_prompt_stands_before_every_text(bert, tmp_path):
    prompt = {"prompts": {"a": "film: "}, "default_prompt_name": "a"}
    asked, plain = load(said(bert, tmp_path / "new", PROMPTS=prompt)), load(bert)
    assert enc.tokenize(asked, ["a", "b"]) == enc.tokenize(plain, ["film: a", "film: b"])


# Whole models, finite vectors


def changed(source, folder, edit=lambda tensors: tensors, **config):
    """A copy of a model's folder, its tensors and its config.json edited."""
    shutil.copytree(source, folder)
    path = folder / "model.safetensors"
    tensors = edit(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


KEY = "encoder.layer.5.attention.self.key.weight"
DAMAGE = {  # what is done to the weights, and the number of wrong tensors
    "layer 5": (lambda t: {n: v for n, v in t.items() if "layer.5." not in n}, 16),
    "one": (lambda t: {n: v for n, v in t.items() if n != KEY}, 1),
    "prefixed": (lambda t: {f"x.{n}": v for n, v in t.items()}, 5 + 6 * 16 + 6 * 16),  # + foreign
    "shape": (lambda t: t | {KEY: t[KEY][:8].clone()}, 1),
}


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_that_is_not_whole_is_refused(bert, tmp_path, damage, nf4):
    """transformers would draw what is missing at random, and say so in a report at most."""
    edit, count = DAMAGE[damage]
    folder = changed(bert, tmp_path / "damaged", edit)
    with pytest.raises(BadInput, match=rf"damaged: {count} weights do not fit config\.json"):
        load(folder, nf4=nf4)


def test_a_model_with_more_layers_than_its_configuration_is_refused(bert, tmp_path):
    folder = changed(bert, tmp_path / "short", num_hidden_layers=5)
    with pytest.raises(BadInput, match=r"short: 16 weights .* encoder\.layer\.5\."):
        load(folder)


def test_a_pooler_may_be_missing(bert, tmp_path):
    """Mean pooling never uses it."""
    less = {"edit": lambda t: {n: v for n, v in t.items() if "pooler" not in n}}
    folder = changed(bert, tmp_path / "less", **less)
    found = [enc.embed(e, enc.tokenize(e, ["a", "b c"])) for e in (load(bert), load(folder))]
    np.testing.assert_array_equal(*found)


def sharded(folder, tiny):
    model = load(tiny).model
    model.save_pretrained(folder, max_shard_size="50KB")
    tiny_qwen.save_tokenizer(folder)
    tiny_qwen.save_pooling(folder, 64)
    return folder


def test_a_sharded_model(tiny, tmp_path):
    folder = sharded(tmp_path, tiny)
    assert len(enc.weight_files(folder)) > 3
    found = [enc.embed(e, enc.tokenize(e, ["a", "b c"])) for e in (load(tiny), load(folder))]
    np.testing.assert_array_equal(*found)


def test_a_sharded_model_without_a_weight_or_a_shard(tiny, tmp_path):
    folder = sharded(tmp_path, tiny)
    shard = enc.weight_files(folder)[-1]
    tensors = safetensors.torch.load_file(shard)
    name, _ = tensors.popitem()
    safetensors.torch.save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=rf"1 weights do not fit config\.json: {name}"):
        load(folder)
    shard.unlink()
    with pytest.raises(BadInput, match="cannot be loaded"):
        load(folder)


def test_a_known_name_with_another_models_weights(tiny):
    with pytest.raises(BadInput, match="has 90,560 parameters: not Qwen/Qwen3-Embedding-4B's"):
        enc.load_encoder(*enc.find_encoder("qwen3-4b", str(tiny)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "qwen3", "hidden'),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": ["qwen3"]}'),
        ("config.json", '{"model_type": "qwen3"}'),  # of a model of 33 GB
        ("config.json", '{"model_type": "qwen3", "hidden_size": "x"}'),
        ("config.json", '{"model_type": "qwen3", "num_attention_heads": 0}'),
        ("tokenizer.json", '{"a'),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("model.safetensors", None),
    ],
)
def test_a_cut_or_odd_file_of_a_model_is_one_line(
    tiny, tmp_path, monkeypatch, capsys, name, content
):
    folder = shutil.copytree(tiny, tmp_path / "odd")
    (folder / name).write_text(content) if content else cut(folder / name)
    (tmp_path / "texts.txt").write_text("one\n")
    line = ["encode.py", "--encoder", str(folder), "--texts", str(tmp_path / "texts.txt")]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit) as end:
        metrics.run(enc.main)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith(f"encode.py: error: {folder}")
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_vectors_that_are_not_finite_are_refused_with_their_line(tiny, tmp_path):
    """One letter's embedding is not a number: only texts with that letter are concerned."""

    def edit(tensors):
        token = load(tiny).tokenizer("z")["input_ids"][0]
        tensors["embed_tokens.weight"][token] = float("nan")
        return tensors

    encoder = load(changed(tiny, tmp_path / "odd", edit))
    ids = enc.tokenize(encoder, ["a", "b", "a z", "c"])
    with pytest.raises(BadInput, match="text line 3 is not finite"):
        enc.embed(encoder, ids)
    with pytest.raises(BadInput, match="text line 3 is not finite"):
        enc.embed(encoder, ids, items=np.array([1, 2]))
    assert enc.embed(encoder, ids, items=np.array([0, 1, 3])).shape == (3, 64)


def test_a_folders_own_code_never_runs(tiny, tmp_path, monkeypatch):
    """transformers would ask "run the custom code? [y/N]", and run it."""
    folder = shutil.copytree(tiny, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": "own.Tokenizer"}
    config |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(BadInput, match="own cannot be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


# Parts: what an interrupted run leaves, and what the next one makes of it


@pytest.fixture
def run_in_parts(tiny, tmp_path, monkeypatch):
    """Encodes 24 texts in parts of 6 or more, `until` of them at most; returns how many."""
    monkeypatch.setattr(enc, "PART", 6)
    texts, embed = tmp_path / "texts.txt", enc.embed
    texts.write_text("\n".join(tiny_qwen.TEXTS) + "\n")

    def run(name="out.safetensors", until=10**6, **options):
        line = ["encode.py", "--encoder", str(tiny), "--texts", str(texts)]
        line += ["--out", str(tmp_path / name), "--budget", "100"]
        for option, value in options.items():
            line += [f"--{option}", value]
        encoded = []

        def stop(encoder, ids, budget, items=()):
            if len(items) > 1:  # one is the trial of the longest
                if len(encoded) + len(items) > until:
                    raise KeyboardInterrupt
                encoded.extend(items)
            return embed(encoder, ids, budget, items if len(items) else None)

        monkeypatch.setattr(enc, "embed", stop)
        monkeypatch.setattr(sys, "argv", line)
        if until < 24:
            with pytest.raises(KeyboardInterrupt):
                enc.main()
        else:
            enc.main()
        return len(encoded)

    return run


def test_a_text_that_cannot_be_encoded_is_one_line_before_the_others(
    bert, tmp_path, monkeypatch, capsys
):
    """As where the tokenizer has ids beyond the model's vocabulary."""
    texts = tmp_path / "texts"
    texts.write_text("a\n" + "b" * 60 + "\nc\n")
    monkeypatch.setattr(enc, "forward", lambda encoder, ids: [][len(ids)])
    monkeypatch.setattr(enc, "in_parts", None)  # all texts come later
    line = ["encode.py", "--encoder", str(bert), "--texts", str(texts)]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit):
        metrics.run(enc.main)
    error = capsys.readouterr().err
    assert error.startswith(f"encode.py: error: {bert} cannot encode text line 2 (IndexError")
    assert error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_parts_are_whole_batches_of_all_texts():
    lengths = np.random.default_rng(0).integers(1, 60, 3000)
    order = np.argsort(lengths, kind="stable")
    parts = enc.parts_of(lengths, 512)
    np.testing.assert_array_equal(np.concatenate(parts), order)
    assert len(parts) > 5 and all(256 <= len(part) < 256 + 512 for part in parts[:-1])
    start, runs = 0, []
    for part in parts:
        runs += [(start + a, start + b) for a, b in enc.batches(lengths[part], 512)]
        start += len(part)
    assert runs == enc.batches(lengths[order], 512)


def test_a_run_after_a_break_encodes_the_rest_and_gives_the_same_file(tiny, run_in_parts, tmp_path):
    assert run_in_parts("whole.safetensors") == 24
    encoder = load(tiny)
    expected = enc.embed(encoder, enc.tokenize(encoder, tiny_qwen.TEXTS), 100)
    found = metrics.load(tmp_path / "whole.safetensors")["embeddings"]
    np.testing.assert_array_equal(found, expected)  # in parts or not
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "whole.safetensors").unlink()  # else its vectors would be taken
    first = run_in_parts(until=15)
    assert 0 < first <= 15
    folder = tmp_path / "out.safetensors.parts"
    kept = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert len(kept) >= 2 and kept == [f"{number:04}.safetensors" for number in range(len(kept))]
    assert not (tmp_path / "out.safetensors").exists()
    assert run_in_parts() == 24 - first
    assert whole == (tmp_path / "out.safetensors").read_bytes()
    found = sorted(p.name for p in tmp_path.iterdir())
    assert found == [".written", "out.safetensors", "texts.txt"]


@pytest.mark.parametrize("what", ["settings", "texts", "order", "versions"])
def test_a_part_of_another_origin_is_encoded_anew(run_in_parts, tmp_path, monkeypatch, what):
    assert run_in_parts(until=15) > 0
    options = {}
    if what == "settings":
        options["dtype"] = "bfloat16"
    elif what == "texts":
        (tmp_path / "texts.txt").write_text("\n".join(tiny_qwen.TEXTS[::-1]) + "\n")
    elif what == "order":  # as in a run of more processes, whose parts are larger
        monkeypatch.setattr(enc, "PART", 12)
    else:
        monkeypatch.setattr(metrics, "versions", lambda: {"torch": "another"})
    assert run_in_parts(**options) == 24
    assert not (tmp_path / "out.safetensors.parts").exists()


def test_files_of_others_among_the_parts_stay(run_in_parts, tmp_path):
    run_in_parts(until=15)
    folder = tmp_path / "out.safetensors.parts"
    (folder / "notes.txt").write_text("mine")
    run_in_parts()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    run_in_parts(until=15)
    (folder / "0000.safetensors").write_text("mine too")
    with pytest.raises(BadInput, match=r"0000\.safetensors is damaged"):
        run_in_parts()
    assert (folder / "0000.safetensors").read_text() == "mine too"


def test_a_loaded_model_does_not_hang_on_its_files(tiny, tmp_path):
    """Files that are mapped would stay in memory, 8 GB for the 4B model, and changes show."""
    folder = shutil.copytree(tiny, tmp_path / "copy")
    encoder = load(folder)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    with open(folder / "model.safetensors", "r+b") as file:
        file.write(bytes((folder / "model.safetensors").stat().st_size))
    np.testing.assert_array_equal(enc.embed(encoder, ids), enc.embed(load(tiny), ids))


def test_only_the_files_that_hold_the_weights_count(tiny, tmp_path):
    """A stray copy under another name, or of an older sharding, is neither loaded nor recorded."""
    folder = sharded(tmp_path, tiny)
    files = enc.weight_files(folder)
    shutil.copy(files[0], folder / "model-00001-of-00099.safetensors")
    assert enc.weight_files(folder) == files
    whole = shutil.copytree(tiny, tmp_path / "whole")
    shutil.copy(files[0], whole / "weights.safetensors")
    assert enc.weight_files(whole) == [whole / "model.safetensors"]


# MiniLM itself


@needs_minilm
def test_minilm_has_the_recorded_vectors():
    """First four dimensions, recorded with sentence-transformers 6.2.0."""
    encoder = enc.load_encoder(*enc.find_encoder("minilm", str(MINILM)))
    texts = ["Toy Story Adventure Animation Children Comedy Fantasy pixar pixar fun", "Heat"]
    vectors = enc.embed(encoder, enc.tokenize(encoder, texts))
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(vectors[:, :4], RECORDED, atol=1e-6)


def other_heads(path):
    path.write_text(
        path.read_text().replace('"num_attention_heads": 12', '"num_attention_heads": 6')
    )


def shuffled(path):
    """Two words of the vocabulary change places."""
    text = path.read_text(encoding="utf-8")
    for old, new in (('"the":', '"?":'), ('"movie":', '"the":'), ('"?":', '"movie":')):
        assert old in text or old == '"?":'
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def longer(path):
    path.write_text(path.read_text().replace("256", "128"))


@needs_minilm
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("config.json", other_heads),
        ("tokenizer.json", shuffled),
        ("tokenizer.json", Path.unlink),  # vocab.txt would be read in its place
        ("tokenizer_config.json", lambda path: path.write_text(path.read_text() + " ")),
        ("sentence_bert_config.json", longer),
        ("1_Pooling/config.json", lambda path: path.write_text(path.read_text() + " ")),
    ],
)
def test_minilm_is_its_weights_its_tokenizer_and_how_they_are_read(tmp_path, name, edit):
    folder = tmp_path / "minilm"
    folder.mkdir()
    for path in MINILM.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path.resolve())
        else:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    assert enc.load_encoder(*enc.find_encoder("minilm", str(folder)))
    edit(folder / name)
    told = rf"{name} is not sentence-transformers/all-MiniLM-L6-v2's, by its sha256; .* --encoder"
    if not (folder / name).exists():
        told = f"No such file or directory: .*{name}"
    with pytest.raises(BadInput, match=told):
        enc.load_encoder(*enc.find_encoder("minilm", str(folder)))


RECORDED = [
    [-0.042714, -0.00591231, 0.02587674, -0.01931572],
    [-0.06501702, 0.0335464, 0.00026768, 0.11502702],
]


@needs_minilm
def test_minilm_is_cut_at_256_and_written_the_same_twice(tmp_path, monkeypatch, capsys):
    texts, out = tmp_path / "texts.txt", tmp_path / "a.safetensors"
    texts.write_text("word " * 2000 + "\nHeat\n")
    line = ["encode.py", "--encoder", "minilm", "--weights", str(MINILM), "--texts", str(texts)]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(out)])
    digests = []
    for _ in range(2):
        enc.main()
        first, last = capsys.readouterr().out.splitlines()
        assert first == f"{out}: embeddings of {texts} by minilm ..."
        assert re.fullmatch(rf"{out}: done, 1 of 2 texts cut at 256 tokens, \d+\.\d s", last)
        digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert metrics.load(out, inputs=[texts])["embeddings"].dtype == np.float32
    assert metrics.provenance(out)["inputs"]["model.safetensors"] in enc.MINILM.sha256


def test_a_callers_own_messages_are_still_shown(caplog):
    with pytest.raises(BadInput, match="broken"), enc.one_line("broken"):
        raise KeyError("x")
    logging.getLogger("caller").warning("mine")
    assert caplog.messages == ["mine"]
    for library in ("transformers", "peft", "bitsandbytes", "huggingface_hub", "accelerate"):
        assert not logging.getLogger(f"{library}.part").isEnabledFor(logging.WARNING)


def test_texts_that_were_encoded_already_are_not_encoded_again(tmp_path, monkeypatch, capsys):
    """Without tags documents.txt and documents-no-leak.txt are alike."""
    inputs, vectors = {"documents.txt": "1", "model.safetensors": "2"}, np.eye(2, dtype=np.float32)
    s = enc.Settings(encoder="minilm", texts=Path("t"), out=tmp_path / "b.safetensors")
    metrics.save(tmp_path / "a.safetensors", {"embeddings": vectors}, vars(s), inputs)
    again = {"documents-no-leak.txt": "1", "model.safetensors": "2"}
    assert enc.encoded_before(s, again) == tmp_path / "a.safetensors"
    assert enc.encoded_before(s, again | {"documents-no-leak.txt": "3"}) is None
    assert enc.encoded_before(replace(s, nf4=True), again) is None
    metrics.save(s.out, {"embeddings": vectors}, vars(s), again)
    assert enc.encoded_before(replace(s, out=tmp_path / "a.safetensors"), inputs)
