"""batch_softmax.py: the loss by hand, its examples on a small case, and that it learns."""

import math
from pathlib import Path

import batch_softmax as bs
import numpy as np
import pytest
import tiny_qwen
import torch

import contrastive as con
import encode as enc
import metrics

SCALE = {"liked": np.array(4.0), "highest": np.array(5.0)}


def settings(tiny, data, **changes):
    plain = {"encoder": str(tiny), "ratings": data[0], "texts": data[1], "out": Path("out")}
    plain |= {"batch": 8, "epochs": 2, "average": 1, "warmup": 2, "lr": 1e-3}
    return bs.Settings(**(plain | changes))


def tuned(s):
    facts, folder = enc.find_encoder(s.encoder)
    encoder = con.build(s, facts, folder)
    examples, texts = con.read_inputs(s, bs.RECIPES)
    return encoder, bs.tune(encoder, enc.tokenize(encoder, texts), examples, s)


def test_batch_softmax_by_hand():
    """One profile (1, 0), t = .5; cosines .6, 0, .8; likes 1, 3, 1; the first and last are liked.

    z = 1.2 + log 2, log 4, 1.6 + log 2; each liked movie competes with the second one alone.
    """
    items = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    liked, log_likes = torch.tensor([[True, False, True]]), torch.tensor([1.0, 3.0, 1.0]).log1p()
    loss, positive, negative = bs.batch_softmax(
        torch.tensor([[1.0, 0.0]]), items, liked, log_likes, temperature=0.5
    )
    terms = [math.log(1 + 4 / (2 * math.exp(z))) for z in (1.2, 1.6)]
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-6)
    assert positive.tolist() == pytest.approx([0.6, 0.8])
    assert negative.tolist() == pytest.approx([0.0])


def test_batch_softmax_gives_each_row_the_same_say():
    """The mean of rows, not of pairs: a row with two targets weighs as much as one with one."""
    profiles = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items, zero = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.zeros(3)
    liked = torch.tensor([[True, False, True], [False, True, False]])
    both = bs.batch_softmax(profiles, items, liked, zero, 0.2)[0]
    alone = [bs.batch_softmax(profiles[[n]], items, liked[[n]], zero, 0.2)[0] for n in (0, 1)]
    assert both.item() == pytest.approx(sum(alone).item() / 2)


def test_batch_softmax_gradient_against_finite_differences():
    torch.manual_seed(0)
    profiles, items = (torch.randn(n, 2, dtype=torch.double) for n in (3, 4))
    liked = torch.tensor([[True, False, True, False], [False] * 3 + [True], [True] * 3 + [False]])
    log_likes, items = torch.rand(4).double(), items.requires_grad_()
    torch.autograd.gradcheck(
        lambda e: bs.batch_softmax(profiles, e, liked, log_likes, 0.2)[0], [items]
    )


def ours_case():
    """User 0 likes items 0, 1, 2; user 1 likes 0, 1, 3, 5; 2 likes 2, 3; 3 likes 0."""
    data = {
        "train_users": np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3], dtype=np.int32),
        "train_items": np.array([0, 1, 2, 0, 1, 3, 5, 2, 3, 4, 0], dtype=np.int32),
        "train_ratings": np.array([4.0] * 9 + [3.5, 4.0]),  # item 4 is no like
        "valid": np.zeros(11, dtype=bool),
        **SCALE,
    }
    torch.manual_seed(0)
    vectors = unit(torch.randn(6, 4))
    examples = bs.Ours(data, bs.Settings("", *[Path()] * 3, seed=0))
    examples.refresh(lambda items: vectors[items])
    return examples, vectors


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def test_takes_movies_with_two_fans_and_rows_with_a_profile_and_a_negative():
    examples, _ = ours_case()
    assert examples.items.tolist() == [[0], [1], [2], [3]]
    users, liked, able = examples.rows_of(np.array([0, 2]))
    assert users.tolist() == [0, 1, 2, 3]
    assert liked.tolist() == [[True, True], [True, False], [False, True], [True, False]]
    assert able.tolist() == [False, True, True, False]  # 0: no negative; 3: nothing else liked


def test_profile_leaves_the_batch_out():
    """Batch (0, 2): user 1's profile is items 1, 3, 5 and user 2's item 3, whatever 0 and 2 are."""
    examples, vectors = ours_case()
    mean = vectors[:4].mean(0)  # of the movies that are tuned
    c, fresh = unit(vectors - mean), unit(torch.randn(2, 4))
    f, likes = unit(fresh - mean), torch.tensor([3.0, 2.0]).log1p()
    profiles, liked = unit(torch.stack([c[1] + c[3] + c[5], c[3]])), torch.eye(2).bool()
    expected = bs.batch_softmax(profiles, f, liked, likes, 0.2)[0]
    loss = examples.loss(np.array([0, 2]), fresh[:, None])[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_renews_its_cache_with_the_batch():
    examples, vectors = ours_case()
    c, fresh = unit(vectors - examples.mean), unit(torch.randn(2, 4))
    examples.loss(np.array([0, 2]), fresh[:, None])
    assert torch.equal(examples.cache[[0, 2]], fresh)
    f = unit(fresh - examples.mean)
    sums = torch.stack([f[0] + c[1] + f[1], f[0] + c[1] + c[3] + c[5], f[1] + c[3], f[0]])
    torch.testing.assert_close(examples.sums, sums)
    examples.refresh(None)  # embeds nothing again, but takes the new centre
    torch.testing.assert_close(examples.mean, (fresh.sum(0) + vectors[1] + vectors[3]) / 4)
    assert not torch.allclose(examples.sums, sums)


def test_leaves_the_validation_part_out(data, tiny):
    arrays = metrics.load(data[0])
    for name, hidden in (("whole", False), ("valid", True)):
        arrays["valid"][arrays["train_items"] == 3] = hidden
        path = data[0].with_name(f"{name}.safetensors")
        metrics.save(path, arrays, {})
        examples = bs.Ours(metrics.load(path), settings(tiny, data))
        assert (examples.items == 3).any() != hidden


def test_learns_and_repeats(tiny, data):
    """Likes that the texts do not show at first: items shuffled."""
    arrays = metrics.load(data[0])
    arrays["train_items"] = np.random.default_rng(0).permutation(24)[arrays["train_items"]]
    path = data[0].with_name("shuffled.safetensors")
    metrics.save(path, arrays, {})
    s = settings(tiny, (path, data[1]), epochs=30, batch=8)
    runs = [tuned(s) for _ in range(2)]
    losses = runs[0][1]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert losses == runs[1][1]
    states = [encoder.model.state_dict() for encoder, _ in runs]
    assert all(torch.equal(a, b) for a, b in zip(*(x.values() for x in states), strict=True))


def test_survives_a_last_batch_of_one(tiny, data):
    """24 movies in batches of 23: a single movie teaches nothing, and breaks nothing."""
    encoder, losses = tuned(settings(tiny, data, epochs=3, batch=23, warmup=1))
    assert losses[1::2] == [0.0] * 3
    assert all(p.isfinite().all() for p in encoder.model.parameters())


def test_average_is_the_mean_of_the_weights_after_the_last_epochs(tiny, data):
    """Epochs of two steps; max_steps stops the same schedule after the second and the third."""
    case = {"epochs": 3, "batch": 12, "warmup": 1}
    ends = []
    for steps in (4, 6):
        encoder, _ = tuned(settings(tiny, data, max_steps=steps, **case))
        ends.append(torch.cat([p.flatten() for p in encoder.model.parameters()]))
    encoder, _ = tuned(settings(tiny, data, average=2, **case))
    mean = torch.cat([p.flatten() for p in encoder.model.parameters()])
    torch.testing.assert_close(mean, (ends[0] + ends[1]) / 2)
    assert (ends[0] - ends[1]).abs().max() > 1e-4


def test_trains_without_the_encoders_dropout(tmp_path, data):
    """A run of one step, of a BERT whose configuration has a dropout of .1."""
    tiny_qwen.save_bert(tmp_path)
    encoder, _ = tuned(settings(tmp_path, data, max_steps=1))
    found = {m.p for m in encoder.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert found == {0.0}


def test_the_command_writes_a_folder_that_encodes(tiny, data, tmp_path, monkeypatch):
    line = ["batch_softmax.py", "--encoder", str(tiny), "--ratings", str(data[0])]
    line += [
        "--texts",
        str(data[1]),
        "--out",
        str(tmp_path / "tuned"),
        "--epochs",
        "3",
        "--warmup",
        "1",
    ]
    monkeypatch.setattr(bs.sys, "argv", line)
    bs.main()
    record = metrics.read_json(tmp_path / "tuned" / "training.json")
    assert record["settings"]["temperature"] == 0.2 and len(record["losses"]) == 3
    enc.load_encoder(*enc.find_encoder(str(tmp_path / "tuned")))
    for more, message in (
        (["--epochs", "2"], "--average 3 is more than --epochs 2"),
        (["--lora"], "leave --lora out"),
        (["--warmup", "3"], "--warmup 3: a run of so few steps"),
        (["--nf4"], "--nf4 freezes the encoder"),
        (["--max-steps", "-1"], "--max-steps -1: it must be at least 0"),
    ):
        monkeypatch.setattr(bs.sys, "argv", [*line, *more])
        with pytest.raises(metrics.BadInput, match=message):
            bs.main()


def test_the_mean_holds_no_weights_from_before_the_first_pass(tiny, data):
    """A pass has three steps of 8 movies; a run that stops in the first has one end alone."""
    alone, mean = (tuned(settings(tiny, data, max_steps=2, average=n))[0] for n in (1, 2))
    for a, b in zip(alone.model.parameters(), mean.model.parameters(), strict=True):
        assert torch.equal(a, b)
