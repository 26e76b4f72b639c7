"""NF4 and LoRA, by value: on a tiny random Qwen3, and in counts on the 4B configuration."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import pytest
import safetensors.torch
import tiny_qwen
import torch
import transformers

import contrastive as con
import encode as enc
import fuse
import main
import metrics
import pmf
from metrics import BadInput


@pytest.fixture(scope="module")
def adapter(tiny, data, tmp_path_factory):
    """Tuned by the command line: NF4 base, LoRA, two passes."""
    out = tmp_path_factory.mktemp("work") / "adapter"
    line = ["contrastive.py", "--encoder", str(tiny), "--ratings", str(data[0])]
    line += ["--texts", str(data[1]), "--out", str(out), "--lora", "--nf4", "--batch", "8"]
    call(con, [*line, "--lr", "0.01", "--warmup", "2", "--epochs", "4"])
    return out


def call(script, line):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", line)
        script.main()


def settings(tiny, data, **changes):
    plain = {"encoder": str(tiny), "ratings": data[0], "texts": data[1], "out": Path("out")}
    return con.Settings(**(plain | {"lora": True, "nf4": True, "batch": 8} | changes))


def build(s):
    return con.build(s, *enc.find_encoder(s.encoder))


def embed_file(tiny, data, out, *more):
    line = ["encode.py", "--encoder", str(tiny), "--texts", str(data[1]), "--out", str(out)]
    call(enc, [*line, *map(str, more)])
    return metrics.load(out, inputs=[data[1]])["embeddings"]


# The way of the data


def test_encode_tune_encode(tiny, data, adapter, tmp_path):
    base = embed_file(tiny, data, tmp_path / "base.safetensors", "--nf4")
    more = ("--nf4", "--adapter", str(adapter))
    after = embed_file(tiny, data, tmp_path / "after.safetensors", *more)
    again = embed_file(tiny, data, tmp_path / "again.safetensors", *more)
    np.testing.assert_array_equal(after, again)
    assert separation(after) > separation(base) + 0.1
    row, shuffled = row_of(after, data), row_of(np.random.default_rng(0).permutation(after), data)
    assert row["users"] == 8
    assert row["ndcg"] > 0.999 > shuffled["ndcg"]
    inputs = metrics.provenance(tmp_path / "after.safetensors")["inputs"]
    assert inputs["adapter_model.safetensors"] == metrics.sha256(
        adapter / "adapter_model.safetensors"
    )


def test_the_way_from_movielens_files_to_a_row_of_the_table(tiny, tmp_path, monkeypatch):
    """The Makefile's command lines, one after the other, with the tiny model as Qwen3-0.6B."""
    facts = dataclasses.replace(enc.QWEN_06B, sha256="", parameters=0)
    monkeypatch.setitem(enc.ENCODERS, "qwen3-0.6b", facts)
    base = ("--weights", tiny, "--nf4")
    out = tmp_path / "out"
    folder = movielens(tmp_path / "data")
    monkeypatch.setattr(main, "edition_of", lambda folder: main.REPORTED)  # for all its rows
    main.prepare(["--data", str(folder), "--out", str(out)])
    ratings, texts = out / "ratings.safetensors", out / "documents.txt"
    for name, more in (("pmf", ()), ("pmf-fit", ("--fit-part",))):
        line = ["pmf.py", "--ratings", str(ratings), "--out", str(out / f"{name}.safetensors")]
        call(pmf, [*line, "--k", "4", *more])
    stem = out / "qwen3-0.6b-tuned"
    embed_file("qwen3-0.6b", (None, texts), out / "qwen3-0.6b.safetensors", *base)
    line = ["contrastive.py", "--encoder", "qwen3-0.6b", "--ratings", str(ratings)]
    line += ["--texts", str(texts), "--out", str(stem), *map(str, base), "--lora"]
    call(con, [*line, "--batch", "4", "--lr", "2e-4", "--warmup", "1", "--max-steps", "6"])
    more = (*base, "--adapter", stem)
    embed_file("qwen3-0.6b", (None, texts), out / "qwen3-0.6b-tuned.safetensors", *more)
    main.run_evaluate(["--out", str(out), "--k", "3", "--user", "2", "--quick"])
    rows = json.loads((out / "results.json").read_text())["rows"]
    rows = {row["row"]: row for row in rows if row["recipe"] == "notebook"}
    for row in ("MF + Qwen3-0.6B (base)", "MF + Qwen3-0.6B (tuned)"):
        assert rows[row]["status"] == "ok" and rows[row]["users"] == rows["MF only"]["users"]
    tuning = rows["MF + Qwen3-0.6B (tuned)"]["tuning"]
    assert tuning["trainable"] == 16 * ((64 + 64) + (64 + 32)) * 2
    assert rows["MF + Qwen3-0.6B (base)"]["tuning"] == {}
    assert rows["MF + Qwen3-4B (tuned)"]["status"].startswith("not run")  # never a substitute's


def movielens(folder):
    """A MovieLens folder of the small data set: 8 users like a quarter of 24 movies each."""
    folder.mkdir()
    rng = np.random.default_rng(0)  # rows in an order of its own for each user: see the split
    movies = [f"{movie},{text} (1999),Drama" for movie, text in enumerate(tiny_qwen.TEXTS, 1)]
    ratings = [
        f"{user},{movie},{4.5 if (movie - 1) // 6 == user % 4 else 2.0},{100 * user + movie}"
        for user in range(1, 9)
        for movie in rng.permutation(24) + 1
    ]
    heads = "userId,movieId,rating,timestamp", "movieId,title,genres"
    tags = "userId,movieId,tag,timestamp"
    for name, lines in zip(
        main.FILES, ([heads[0], *ratings], [heads[1], *movies], [tags]), strict=True
    ):
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def row_of(vectors, data):
    """A row of the table by fuse.py: half of what a user likes is the profile, half is sought."""
    arrays = metrics.load(data[0])
    users, items = arrays["train_users"], arrays["train_items"]
    n = users.max() + 1
    liked = arrays["train_ratings"] >= arrays["liked"]
    known, sought = liked & (items % 2 == 0), liked & (items % 2 == 1)
    profiles = fuse.centroids(users[known], items[known], vectors, n)
    cosines = lambda block: profiles[block] @ vectors.T  # noqa: E731
    seen, relevant = (metrics.group_by_user(users[m], items[m], n) for m in (known, sought))
    return metrics.summary(metrics.evaluate(cosines, seen, relevant, k=3))


def separation(vectors):
    """Mean cosine within the quarters that share an audience, less the mean cosine across."""
    cosines = vectors @ vectors.T
    quarter = np.arange(len(vectors)) // (len(vectors) // 4)
    same = quarter[:, None] == quarter
    return cosines[same].mean() - cosines[~same].mean()


def test_the_adapter_folder(adapter):
    tensors = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    grown = {name: tensor for name, tensor in tensors.items() if "lora_B" in name}
    assert len(grown) == 2 * 2  # q_proj and v_proj of two layers
    assert all(tensor.any() for tensor in grown.values())
    config = json.loads((adapter / "adapter_config.json").read_text())
    found = (config["r"], config["lora_alpha"], config["lora_dropout"])
    assert found == (16, 32, 0.1)
    assert set(config["target_modules"]) == {"q_proj", "v_proj"}
    record = json.loads((adapter / "training.json").read_text())
    # r (in + out): q 64 -> 64, v 64 -> 32, two layers
    assert record["trainable"] == 16 * ((64 + 64) + (64 + 32)) * 2
    assert np.mean(record["losses"][-10:]) < np.mean(record["losses"][:10])


def test_a_reloaded_adapter_gives_the_same_vectors(tiny, data, tmp_path):
    s = settings(tiny, data, lr=1e-2, warmup=2, max_steps=8)
    encoder = build(s)
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    con.tune(encoder, ids, con.read_inputs(s)[0], s)
    before = enc.embed(encoder, ids)
    con.write_model(tmp_path, encoder, tiny)
    again = enc.load_encoder(*enc.find_encoder(str(tiny)), nf4=True, adapter=str(tmp_path))
    np.testing.assert_array_equal(enc.embed(again, ids), before)


def test_tuning_leaves_the_base_byte_identical(tiny, data):
    s = settings(tiny, data, lr=1e-2, warmup=0, max_steps=5)
    encoder = build(s)

    def base():
        state = encoder.model.state_dict()
        return {n: t.clone() for n, t in state.items() if "lora_" not in n}

    before = base()
    assert any(t.dtype == torch.uint8 for t in before.values())  # packed 4-bit weights among them
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    con.tune(encoder, ids, con.read_inputs(s)[0], s)
    after = base()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


# Gradients


def gradients(encoder, data, s):
    ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
    encoder.model.train()
    con.backward(encoder, ids, con.read_inputs(s)[0], np.arange(8), 4096)
    return {n: p.grad for n, p in encoder.model.named_parameters() if p.requires_grad}


def test_gradients_equal_the_dequantised_twins(tiny, data, tmp_path):
    """The twin: the same model in float32 whose linear weights are NF4's values, written out."""
    s = settings(tiny, data, dropout=0.0)
    quantised = build(s)
    model = transformers.Qwen3Model.from_pretrained(tiny, dtype=torch.float32)
    packed = {
        n.removeprefix("base_model.model.").replace(".base_layer", ""): m.weight
        for n, m in quantised.model.named_modules()
        if isinstance(m, bnb.nn.Linear4bit) and hasattr(m.weight, "quant_state")
    }
    changed = 0
    for name, layer in model.named_modules():
        if name in packed:
            weight = packed[name]
            values = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
            changed += not torch.equal(layer.weight.data, values)
            layer.weight.data = values.to(torch.float32)
    assert changed == len(packed) == 2 * 7
    twin = tmp_path / "twin"
    model.save_pretrained(twin)
    tiny_qwen.save_tokenizer(twin)
    tiny_qwen.save_pooling(twin, 64)
    plain = settings(twin, data, dropout=0.0, nf4=False)
    expected, found = gradients(build(plain), data, plain), gradients(quantised, data, s)
    assert expected.keys() == found.keys()
    assert any(g.any() for g in expected.values())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


def test_training_goes_on_after_an_evaluation(tiny, data):
    """The trap of AVX512-BF16 CPUs: a second backward pass fails unless it is off."""
    s = settings(tiny, data, dropout=0.0)
    encoder = build(s)
    before = gradients(encoder, data, s)
    copies = {n: g.clone() for n, g in before.items()}
    enc.embed(encoder, enc.tokenize(encoder, tiny_qwen.TEXTS))
    encoder.model.zero_grad()
    after = gradients(encoder, data, s)
    assert all(torch.equal(copies[n], after[n]) for n in copies)
    layers = [m for m in encoder.model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert layers
    assert not any(m.support_avx512bf16_for_cpu for m in layers)


# Refusals


def load(tiny, adapter):
    return enc.load_encoder(*enc.find_encoder(str(tiny)), nf4=True, adapter=str(adapter))


def test_a_missing_adapter(tiny, tmp_path):
    with pytest.raises(BadInput, match="holds no adapter"):
        load(tiny, tmp_path)


def test_an_adapter_of_another_base(adapter, tmp_path):
    other = tiny_qwen.save_encoder(tmp_path, seed=1)
    with pytest.raises(BadInput, match="was tuned on other weights"):
        load(other, adapter)


def test_an_adapter_on_another_kind_of_base(tiny, data, adapter, tmp_path):
    """Tuned on NF4 it belongs to NF4; one that was tuned without may be put on NF4 by --nf4."""
    with pytest.raises(BadInput, match="adapter was tuned on a base in NF4: add --nf4"):
        enc.load_encoder(*enc.find_encoder(str(tiny)), adapter=str(adapter))
    line = ["contrastive.py", "--encoder", str(tiny), "--ratings", str(data[0]), "--lora"]
    line += ["--texts", str(data[1]), "--out", str(tmp_path / "plain"), "--max-steps", "2"]
    call(con, [*line, "--lr", "0.01", "--warmup", "0"])
    assert enc.load_encoder(*enc.find_encoder(str(tiny)), adapter=str(tmp_path / "plain"))
    assert load(tiny, tmp_path / "plain")  # to save memory, as it was asked for


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", b'{"peft_type": "LORA", "r', "adapter_config.json is not complete"),
        ("adapter_config.json", b"[]", "adapter_config.json has no 'base_model_name_or_path'"),
        ("adapter_config.json", b'{"peft_type": "NONE", BASE}', "odd does not fit .*NONE"),
        ("training.json", b'{"weights": {', "training.json is not complete JSON"),
        ("training.json", b'{"files": {}}', "training.json has no 'weights'"),
        ("training.json", b"3", "training.json has no 'files'"),
        ("adapter_model.safetensors", b"cut", "odd does not fit .*SafetensorError"),
    ],
)
def test_a_cut_or_odd_file_of_an_adapter(tiny, adapter, tmp_path, name, content, message):
    odd = shutil.copytree(adapter, tmp_path / "odd")
    base = f'"base_model_name_or_path": "{tiny}"'.encode()
    if name != "training.json":  # else it knows the sha256 of the others
        (odd / "training.json").unlink()
    (odd / name).write_bytes(content.replace(b"BASE", base))
    with pytest.raises(BadInput, match=message):
        load(tiny, odd)


def test_an_adapter_without_its_record_needs_the_base_that_it_names(tiny, adapter, tmp_path):
    """Ours name NF4 too; those of others are taken on the base that is asked for."""
    alone = shutil.copytree(adapter, tmp_path / "alone")
    (alone / "training.json").unlink()
    assert load(tiny, alone)
    with pytest.raises(BadInput, match="alone was tuned on a base in NF4: add --nf4"):
        enc.load_encoder(*enc.find_encoder(str(tiny)), adapter=str(alone))
    other = tiny_qwen.save_encoder(tmp_path / "other", seed=1)
    with pytest.raises(BadInput, match=f"was tuned on other weights than {other}: on {tiny}"):
        load(other, alone)
    config = json.loads((alone / "adapter_config.json").read_text())
    for base in (tiny, Path(os.path.relpath(tiny))):  # as plain peft writes it
        config["base_model_name_or_path"] = str(base)
        (alone / "adapter_config.json").write_text(json.dumps(config))
        assert enc.load_encoder(*enc.find_encoder(str(tiny)), adapter=str(alone)) and load(
            tiny, alone
        )


def test_a_flipped_bit_in_an_adapter_or_a_tuned_folder_is_refused(tiny, data, adapter, tmp_path):
    """training.json holds the sha256 of each file; what its message advises works."""
    line = ["contrastive.py", "--encoder", str(tiny), "--ratings", str(data[0]), "--max-steps", "1"]
    line += ["--texts", str(data[1]), "--out", str(tmp_path / "tuned")]
    call(con, line)
    odd = shutil.copytree(adapter, tmp_path / "odd")
    for path in (odd / "adapter_model.safetensors", tmp_path / "tuned/model.safetensors"):
        whole = bytearray(path.read_bytes())
        whole[-20] ^= 64
        path.write_bytes(whole)
    told = r"adapter_model\.safetensors is damaged, or changed: .*; delete .*odd and run make again"
    with pytest.raises(BadInput, match=told):
        load(tiny, odd)
    with pytest.raises(
        BadInput, match=r"/model\.safetensors is damaged, .*; delete .*tuned and run"
    ):
        enc.load_encoder(*enc.find_encoder(str(tmp_path / "tuned")))
    record = odd / "training.json"
    record.write_text(record.read_text().replace('"nf4": true', '"nf4": false'))
    with pytest.raises(BadInput, match=r"training\.json is damaged, or was changed; delete it"):
        load(tiny, odd)
    shutil.rmtree(tmp_path / "tuned")
    call(con, line)
    assert enc.load_encoder(*enc.find_encoder(str(tmp_path / "tuned")))


def change(adapter, folder, edit):
    """A copy of the adapter, its tensors edited, its record removed."""
    shutil.copytree(adapter, folder)
    (folder / "training.json").unlink()
    path = folder / "adapter_model.safetensors"
    tensors = edit(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_an_adapter_with_other_names(tiny, adapter, tmp_path):
    """What a class with another prefix would leave: peft alone warns and stays the base."""
    renamed = change(
        adapter,
        tmp_path / "renamed",
        lambda t: {n.replace("model.layers", "model.model.layers"): v for n, v in t.items()},
    )
    with pytest.raises(BadInput, match="other layer names"):
        load(tiny, renamed)


def test_an_adapter_of_another_size(tiny, adapter, tmp_path):
    cut = change(adapter, tmp_path / "cut", lambda t: {n: v[:8, :8].clone() for n, v in t.items()})
    with pytest.raises(BadInput, match="does not fit"):
        load(tiny, cut)


def test_an_untrained_adapter(tiny, data, tmp_path):
    con.write_model(tmp_path, build(settings(tiny, data)), tiny)
    with pytest.raises(BadInput, match="every lora_B is zero"):
        load(tiny, tmp_path)
