"""Examples, losses and whole tuning; the losses by hand on 2-D vectors."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import tiny_qwen
import torch
import transformers

import contrastive as con
import encode as enc
import metrics
from metrics import BadInput

SCALE = {"liked": np.array(4.0), "highest": np.array(5.0)}


def settings(tiny, data, out="out", **changes):
    plain = {"encoder": str(tiny), "ratings": data[0], "texts": data[1], "out": Path(out)}
    return con.Settings(**(plain | {"batch": 8, "warmup": 2, "lr": 1e-3} | changes))


@pytest.fixture
def command(tiny, data, monkeypatch, capsys):
    """Runs the command line; returns its exit status and what it wrote to stderr."""

    def call(out, *more, texts=data[1]):
        line = ["contrastive.py", "--encoder", str(tiny), "--ratings", str(data[0])]
        line += ["--texts", str(texts), "--out", str(out), "--batch", "8", "--warmup", "2"]
        monkeypatch.setattr(sys, "argv", [*line, *more])
        try:
            metrics.run(con.main)
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


# Losses


def test_pair_loss_by_hand():
    """Cosines [[1, 0], [.6, .8]]; row losses log(1 + e^-2) and log(1 + e^-.4) at scale 2."""
    a = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss, positive, negative = con.pair_loss(a, b, scale=2.0)
    expected = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-0.4))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert positive.tolist() == pytest.approx([1.0, 0.8])
    assert negative.tolist() == pytest.approx([0.0, 0.6])


def test_triplet_loss_by_hand():
    """cos+ .6, cos- .8 at temperature .5: log(1 + e^(.2/.5))."""
    profile = torch.tensor([[1.0, 0.0]])
    liked, disliked = torch.tensor([[0.6, 0.8]]), torch.tensor([[0.8, 0.6]])
    loss, positive, negative = con.triplet_loss(profile, liked, disliked, temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.4)), rel=1e-6)
    assert (positive.item(), negative.item()) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize("loss", [con.pair_loss, con.triplet_loss])
def test_gradient_against_finite_differences(loss):
    torch.manual_seed(0)
    count = 2 if loss is con.pair_loss else 3
    e = [torch.randn(3, 2, dtype=torch.double, requires_grad=True) for _ in range(count)]
    torch.autograd.gradcheck(lambda *x: loss(*x)[0], e)


def test_the_profile_leaves_the_target_out():
    """User 0 likes items 0, 1, 2 at 0, 90 and 90 degrees: without item 0 the profile is (0, 1)."""
    data = {
        "train_users": np.array([0, 0, 0, 0]),
        "train_items": np.array([0, 1, 2, 3]),
        "train_ratings": np.array([5.0, 4.0, 4.5, 1.0]),
        "valid": np.zeros(4, dtype=bool),
        **SCALE,
    }
    examples = con.Report(data, con.Settings("", *[Path()] * 3, seed=0))
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.6, 0.8]])
    examples.refresh(lambda items: vectors[items])
    row = np.flatnonzero(examples.items[:, 0] == 0)
    e = vectors[torch.as_tensor(examples.items[row])]  # (1, 2, 2): item 0 and the disliked item 3
    _, positive, negative = examples.loss(row, e)
    assert positive.item() == pytest.approx(0.0)  # (0, 1) . (1, 0)
    assert negative.item() == pytest.approx(0.8)  # (0, 1) . (.6, .8)


# Examples


def test_pairs_of_a_small_case():
    users = np.repeat([0, 1], [5, 4])
    items = np.arange(9)
    pairs = con.notebook_pairs(users, items, np.full(9, True), seed=0)
    every = {(a, b) for a in range(5) for b in range(a)}
    assert {tuple(sorted(p, reverse=True)) for p in pairs} == every  # all ten, each once; user 1: 4
    assert len(con.notebook_pairs(users, items, np.full(9, False), seed=0)) == 0


def test_a_pair_is_a_number_of_the_lower_triangle():
    """Pair a (a - 1) / 2 + b, b < a, is (a, b): the draws of the recorded runs."""
    liked = np.arange(100, 130)  # of one user
    pick = np.random.default_rng(3).choice(30 * 29 // 2, 10, replace=False)
    a = ((1 + np.sqrt(8 * pick + 1)) / 2).astype(int)
    expected = np.stack([liked[a], liked[pick - a * (a - 1) // 2]], axis=1)
    users, all_liked = np.zeros(30, dtype=int), np.full(30, True)
    assert np.array_equal(con.notebook_pairs(users, liked, all_liked, seed=3), expected)


def test_triplets_of_a_small_case():
    users = np.repeat([0, 1, 2], [4, 2, 2])
    items = np.arange(8)
    ratings = np.array([4.0, 5.0, 2.5, 3.0, 4.0, 1.0, 4.0, 4.0])
    found = con.triplets(users, items, ratings >= 4, ratings <= 2.5, seed=0)
    assert sorted(map(tuple, found)) == [(0, 0, 2), (0, 1, 2)]  # user 1: one liked; 2: no disliked


@pytest.mark.parametrize("build", [con.notebook_pairs, con.triplets])
def test_seeds(build):
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(20), 50), np.tile(np.arange(50), 20)
    ratings = rng.integers(1, 11, 1000) / 2
    sides = [ratings >= 4, ratings <= 2.5][: 1 + (build is con.triplets)]
    first, again, other = (build(users, items, *sides, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == 20 * 10


# Tuning


def test_tuning_learns_and_repeats(command, tiny, data, tmp_path):
    """Two command lines from one seed write the same bytes; another seed does not."""
    written = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        more = ("--lr", "0.001", "--epochs", "4", "--seed", seed)
        status, error = command(tmp_path / name, *more)
        assert status == 0, error
        written.append((tmp_path / name / "model.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    losses = record["losses"]
    assert len(losses) == 40  # 80 pairs, batch 8, 4 passes
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert record["trainable"] == record["parameters"]
    assert record["inputs"]["ratings.safetensors"] == metrics.sha256(data[0])
    for name in ("modules.json", "1_Pooling/config.json"):  # pools as its base does
        assert (tmp_path / "a" / name).read_bytes() == (tiny / name).read_bytes()
        assert name in record["files"]


def test_report_recipe_learns(tiny, data):
    s = settings(tiny, data, recipe="report", epochs=4)
    losses = tuned(s)[1]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def tuned(s):
    facts, folder = enc.find_encoder(s.encoder)
    encoder = con.build(s, facts, folder)
    ids = enc.tokenize(encoder, enc.read_texts(s.texts))
    return encoder, con.tune(encoder, ids, con.read_inputs(s)[0], s)


def test_micro_batches_do_not_change_the_gradient(tiny, data):
    gradients = []
    for budget in (1, 10_000):
        s = settings(tiny, data)
        encoder = con.build(s, *enc.find_encoder(s.encoder))
        ids = enc.tokenize(encoder, enc.read_texts(s.texts))
        con.backward(encoder, ids, con.read_inputs(s)[0], np.arange(8), budget)
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_checkpointing_does_not_change_the_loss(tiny, data):
    plain = tuned(settings(tiny, data, max_steps=3))[1]
    again = tuned(settings(tiny, data, max_steps=3, checkpointing=True))[1]
    assert plain == pytest.approx(again, abs=1e-5)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([(1.0, 0.9995)] * 25, "step 20: loss 1.000, mean cosine of negatives 0.9995"),
        ([(1.0, 0.9995)] * 9 + [(1.0, 0.99)] + [(1.0, 0.9995)] * 25, "step 30: loss"),
        ([(1.0, 0.1)] * 6 + [(float("nan"), 0.1)], "step 7: loss nan"),
    ],
)
def test_a_collapse_or_an_overflow_stops_the_run(tiny, data, monkeypatch, steps, message):
    """A collapse is 20 steps in a row whose negatives all have a cosine above .999."""
    seen = iter(steps)

    def backward(*_):
        loss, negative = next(seen)
        return loss, 0.0, negative

    monkeypatch.setattr(con, "backward", backward)
    with pytest.raises(BadInput, match=message):
        tuned(settings(tiny, data, epochs=4))


def test_a_run_that_diverges_writes_nothing(command, tmp_path):
    status, error = command(tmp_path / "out", "--lr", "1e30", "--warmup", "0")
    assert status == 2
    assert "error: step" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--nf4",), "give --lora too"),
        (("--dtype", "bfloat16"), "needs float32"),
        (("--recipe", "theirs"), "invalid choice: 'theirs'"),
    ],
)
def test_refusals(command, tmp_path, more, message):
    status, error = command(tmp_path / "out", *more)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_warm_up_longer_than_the_run_is_cut(command, data, tmp_path, monkeypatch):
    """80 pairs in batches of 8, 2 passes: 20 steps; the rate must reach --lr, and 0 at the end."""
    rates, make = [], transformers.get_linear_schedule_with_warmup

    def schedule(optimiser, *steps):
        optimiser.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return make(optimiser, *steps)

    monkeypatch.setattr(transformers, "get_linear_schedule_with_warmup", schedule)
    assert command(tmp_path / "a", "--lr", "0.001", "--warmup", "20")[0] == 0
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["settings"]["warmup"] == 2
    assert (max(rates), rates[2], rates[-1]) == pytest.approx((1e-3, 1e-3, 1e-3 / 18))
    assert command(tmp_path / "b", "--warmup", "19", "--max-steps", "1")[0] == 0
    record = json.loads((tmp_path / "b" / "training.json").read_text())
    assert record["settings"]["warmup"] == 19


def test_another_file_as_ratings(command, tmp_path):
    factors = tmp_path / "factors.safetensors"
    metrics.save(factors, {"user_factors": np.ones((2, 2))}, {})
    status, error = command(tmp_path / "out", "--ratings", str(factors))
    assert (status, error.count("\n")) == (2, 1)
    assert f"{factors} holds user_factors, but no train_users" in error


def test_where_nothing_is_disliked_there_are_no_triplets(command, data, tmp_path):
    arrays, clicks = metrics.load(data[0]), tmp_path / "clicks.safetensors"
    arrays["train_ratings"][:] = arrays["highest"]
    metrics.save(clicks, arrays, {})
    error = command(tmp_path / "out", "--ratings", str(clicks), "--recipe", "report")[1]
    assert f"{clicks}: no user has liked enough, or disliked any, for recipe 'report'" in error


def test_texts_of_other_ratings(command, data, tmp_path, monkeypatch):
    arrays = metrics.load(data[0])
    ratings = tmp_path / "ratings.safetensors"
    metrics.save(ratings, arrays, {"texts": {"documents.txt": metrics.sha256(data[1])}})
    other = tmp_path / "other.txt"
    other.write_text(data[1].read_text().lower() + "one more\n")
    assert command(tmp_path / "out", "--ratings", str(ratings), "--max-steps", "1")[0] == 0
    more = ("--ratings", str(ratings), "--max-steps", "1")
    status, error = command(tmp_path / "two", *more, texts=other)
    assert (status, error.count("\n")) == (2, 1)
    assert f"{other} belongs to another data set or split than {ratings}" in error


def test_a_folder_of_the_users_is_never_replaced(command, tmp_path, monkeypatch):
    """An own folder is replaced; one that holds anything else is refused before any work."""
    out = tmp_path / "out"
    for _ in range(2):
        assert command(out, "--max-steps", "1")[0] == 0
    (out / "thesis.txt").write_text("mine")
    monkeypatch.setattr(con, "build", None)  # nothing is even loaded
    status, error = command(out)
    assert (status, error.count("\n")) == (2, 1)
    assert "thesis.txt was not written by this command" in error
    assert (out / "thesis.txt").read_text() == "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.safetensors").write_text("mine")
    assert command(foreign)[0] == 2


def test_a_full_disk_is_one_line(command, tmp_path, monkeypatch):
    def save(*_, **__):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", save)
    status, error = command(tmp_path / "out", "--max-steps", "1")
    assert (status, error.count("\n")) == (2, 1)
    assert "out cannot be written (SafetensorError: No space left on device)" in error
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_peak_memory_where_it_is_counted_and_where_not(monkeypatch):
    assert 50e6 < con.peak_memory() < 50e9
    kilobytes = con.peak_memory() / 1024
    monkeypatch.setattr(sys, "platform", "darwin")  # macOS counts bytes
    assert con.peak_memory() == pytest.approx(kilobytes, rel=0.1)
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has no such module
    assert con.peak_memory() is None


# LoRA


def lora(tiny, data, **changes):
    return settings(tiny, data, **({"lora": True, "nf4": True, "lr": 2e-5} | changes))


def built(s):
    return con.build(s, *enc.find_encoder(s.encoder))


def test_lora_adds_alpha_over_r_times_b_a_and_nothing_at_first(tiny, data):
    """By hand in one layer: W x + (alpha / r) B A x, with B zero until the first step."""
    s = lora(tiny, data, nf4=False, rank=2, alpha=6, dropout=0.0)
    model = built(s).model
    layer = model.base_model.model.layers[0].self_attn.q_proj
    W = layer.base_layer.weight  # (64, 64)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # (2, 64), (64, 2)
    x = torch.randn(3, 64)
    assert not B.any() and A.any()
    torch.testing.assert_close(layer(x), x @ W.T)
    with torch.no_grad():
        B.copy_(torch.arange(128.0).reshape(64, 2) / 100)
    torch.testing.assert_close(layer(x), x @ W.T + 6 / 2 * (x @ A.T @ B.T), atol=1e-4, rtol=1e-4)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }


def test_one_seed_makes_the_same_adapter(tiny, data, tmp_path):
    """Whatever was drawn before: the seed is set immediately before the adapter is made."""
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(len(written) + 1)
        con.write_model(tmp_path / name, built(lora(tiny, data, seed=seed)), tiny)
        written.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]


def test_targets_that_the_model_lacks(tiny, data):
    with pytest.raises(BadInput, match=r"LoRA cannot adapt these --targets .*nowhere"):
        built(lora(tiny, data, targets=("nowhere",)))


@pytest.mark.parametrize(
    ("kind", "layers"), [("MPNet", {"q", "v"}), ("Roberta", {"query", "value"})]
)
def test_lora_finds_the_layers_of_a_folder_without_a_name(
    data, tmp_path, monkeypatch, capsys, kind, layers
):
    small = tiny_qwen.save_small(tmp_path / kind, getattr(transformers, f"{kind}Config"))
    line = ["contrastive.py", "--encoder", str(small), "--ratings", str(data[0]), "--lora"]
    line += ["--texts", str(data[1]), "--out", str(tmp_path / "out"), "--max-steps", "1"]
    monkeypatch.setattr(sys, "argv", [*line, "--nf4"])
    con.main()
    assert f"LoRA on the layers called {' and '.join(sorted(layers))}\n" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == layers


def test_a_folder_without_such_layers_needs_targets(data, tmp_path):
    small = tiny_qwen.save_small(tmp_path / "small", transformers.DistilBertConfig)
    with pytest.raises(BadInput, match=r"small has no layer called query, value, .*--targets"):
        built(lora(small, data))
    assert built(lora(small, data, targets=("q_lin",)))


def test_an_encoder_without_unit_vectors_is_tuned_by_cosines(tiny, data, tmp_path):
    """Losses take unit vectors, whatever the folder's modules.json says."""
    folder = shutil.copytree(tiny, tmp_path / "plain")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    losses = []
    for base in (tiny, folder):
        s = lora(base, data, max_steps=3)
        encoder = built(s)
        ids = enc.tokenize(encoder, tiny_qwen.TEXTS)
        losses.append(con.tune(encoder, ids, con.read_inputs(s)[0], s))
    assert losses[0] == losses[1]


def test_trainable_parameters_of_the_notebooks_run():
    """5,898,240 of 4,027,672,576 (.146 %): r (in + out) over q and v of 36 layers."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.Qwen3Config(**tiny_qwen.QWEN_4B))
    assert sum(p.numel() for p in model.parameters()) == enc.QWEN_4B.parameters
    s = lora("qwen3-4b", ("", ""))
    model = con.with_lora(model, s, enc.QWEN_4B)
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    assert trained == 36 * 16 * ((2560 + 32 * 128) + (2560 + 8 * 128)) == 5_898_240
    assert total == 4_027_672_576
    assert round(100 * trained / total, 3) == 0.146


# Inputs


def test_too_few_texts(command, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("one\n")
    error = command(tmp_path / "out", texts=short)[1]
    assert f"has items 0 to 23, {short} only 1\n" in error


@pytest.mark.parametrize(("name", "wrong"), [("users", 2**31 - 1), ("users", 8), ("items", -1)])
def test_a_user_or_an_item_that_is_not_there_is_refused(command, data, tmp_path, name, wrong):
    """A user 2,147,483,647 would take 17 GB."""
    arrays = metrics.load(data[0])
    arrays[f"train_{name}"][3] = wrong
    ratings = tmp_path / "ratings.safetensors"
    metrics.save(ratings, arrays, {})
    status, error = command(tmp_path / "out", "--ratings", str(ratings))
    assert (status, error.count("\n")) == (2, 1)
    low, high = min(0, wrong), max({"users": 7, "items": 23}[name], wrong)
    assert f"{ratings} has {name} {low} to {high}, " in error and " only " in error


# Several processes


PROGRAM = """
import atexit, pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
import contrastive, encode

def show():
    names = [file.read_text() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
    print("threads:", sum("gloo" in name for name in names))

def start():
    joined.append(sys.argv[0])
    if len(joined) == 1:  # a process joins a group once
        join()

atexit.register(show)  # the last to run
join, joined, options = encode.start_processes, [], sys.argv[1:]
encode.start_processes = start
cut = options.index("contrastive.py")
for script, line in (encode, options[:cut]), (contrastive, options[cut:]):
    sys.argv = line
    script.main()
print("joined:", *joined)
show()
"""


@pytest.fixture(scope="module")
def together(tiny, data, tmp_path_factory):
    """(folder, lines printed) of both commands, one after the other, in two processes."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "both.py").write_text(PROGRAM)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    same = ["--encoder", tiny, "--texts", data[1], "--out"]
    line = ["both.py", Path(enc.__file__).parent, "encode.py", *same, "two.safetensors"]
    line += ["contrastive.py", "--ratings", data[0], "--batch", "8", "--lr", "0.001"]
    line += ["--warmup", "2", "--max-steps", "8", *same, "model"]
    done = subprocess.run([*start, *line], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.splitlines()


def test_no_thread_of_the_group_outlives_it(together):
    """One that does drops a tensor while the interpreter ends, and then aborts the process."""
    lines = [line for line in together[1] if line.startswith("threads: ")]
    before, after = (int(line.split()[1]) for line in lines)  # of the first process
    assert before > 0 == after


def test_both_commands_join_the_group_and_its_first_process_alone_shows_their_stages(together):
    lines = together[1]
    assert "joined: encode.py contrastive.py" in lines
    assert sum(": done, " in line for line in lines) == 2


def test_two_processes_equal_one(together, tiny, data):
    """With gloo: the same embeddings, and the same losses to 1e-5 (no dropout here)."""
    folder = together[0]
    encoder = enc.load_encoder(*enc.find_encoder(str(tiny)))
    one = enc.embed(encoder, enc.tokenize(encoder, tiny_qwen.TEXTS))
    two = metrics.load(folder / "two.safetensors", inputs=[data[1]])["embeddings"]
    np.testing.assert_allclose(one, two, atol=1e-6)
    one = tuned(settings(tiny, data, max_steps=8))[1]
    two = json.loads((folder / "model" / "training.json").read_text())["losses"]
    assert len(two) == 8
    assert one == pytest.approx(two, abs=1e-5)
