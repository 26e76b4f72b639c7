"""Contrastive tuning of an encoder on what users liked: whole, or by LoRA on an NF4 base.

Recipe `notebook`: pairs (a, b) of movies that one user liked, the other b of the batch as
negatives (multiple negatives ranking: Henderson et al. 2017, section 4.4), e unit embeddings:

    L = -1/B sum_i log( exp(20 e_ai.e_bi) / sum_j exp(20 e_ai.e_bj) )                         (P)

Recipe `report`: triplets (user, liked, disliked) against the user's profile p, the centroid of the
OTHER movies the user liked (report, II.C; the softmax of InfoNCE, van den Oord et al. 2018):

    L = -1/B sum_i log( exp(p_i.e_li / t) / (exp(p_i.e_li / t) + exp(p_i.e_di / t)) )         (C)

LoRA (Hu et al. 2022) adds (alpha/r) B A to chosen layers and trains A, B alone; on an NF4 base
that is QLoRA (Dettmers et al. 2023).

Gives:    hits of MF + MiniLM before and after tuning (seed 42):
              notebook   all weights 712 -> 728    LoRA on NF4 720 -> 701
              report     all weights 748 -> 952    LoRA on NF4 756 -> 877
Command:  python contrastive.py --encoder minilm --weights data/minilm --texts out/documents.txt \\
              --ratings out/ratings.safetensors --out out/minilm-tuned     (others: the Makefile)
          torchrun --nproc-per-node 2 contrastive.py ...    each process encodes its share of a step
Writes:   the folder --out: a model that sentence-transformers opens, or with --lora a peft adapter;
          in it training.json: settings, inputs, versions, losses, trainable share, memory, time.
Legend:   U users, I items, N ratings, P examples, B batch, M movies an example, D dimensions.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers

import encode as enc
import metrics
from metrics import BadInput, group_by_user, sha256

DISLIKED = 0.5  # of the highest rating; Report silent: we take the lower half of the scale
PER_USER = 10  # examples a user, in the notebook's run; Report silent: the same for triplets
QUERY_VALUE = ("query", "value", "q", "v", "q_proj", "v_proj")  # LoRA's layers, by the usual names

# ------------------------------------------------------------------------------------------------
# Losses: pure functions of unit embeddings; each returns (loss, positive cosines, negative cosines)
# ------------------------------------------------------------------------------------------------


def pair_loss(a, b, scale=20.0):
    """(P) above. a, b: (B, D); row i of both is one pair.

    scale 20, one direction (a to b) and no mask for an item that is twice in the batch, as in
    sentence-transformers' MultipleNegativesRankingLoss, which the notebook's run used.
    """
    cosines = a @ b.T  # (B, B)
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)  # (B, B)
    loss = F.cross_entropy(scale * cosines, torch.arange(len(a), device=a.device))  # (P)
    return loss, cosines[own].detach(), cosines[~own].detach()


def triplet_loss(profile, liked, disliked, temperature=0.07):
    """(C) above, which is softplus((p.d - p.l) / t). profile, liked, disliked: (B, D).

    Report silent on the form ("a contrastive loss"): we take the softmax, because unlike a margin
    it needs no cosine that is out of reach; t = .07 is the usual choice (He et al. 2020). The
    profile is a constant: no gradient enters it.
    """
    positive = (profile * liked).sum(dim=1)  # (B,)
    negative = (profile * disliked).sum(dim=1)  # (B,)
    loss = F.softplus((negative - positive) / temperature).mean()  # (C)
    return loss, positive.detach(), negative.detach()


# ------------------------------------------------------------------------------------------------
# Recipes. Each is a class with the same three parts, which tune() below uses:
#   items              (P, M), the movies of each example
#   refresh(embed)     is called before each pass over the examples
#   loss(rows, e)      of the examples `rows` (B,), whose movies have the embeddings e (B, M, D)
# ------------------------------------------------------------------------------------------------


def notebook_pairs(users, items, liked, seed):
    """(P, 2) pairs of different items that one user liked; users with 5 liked items or more.

    users, items (N,), liked (N,) bool.
    """
    rng, pairs = np.random.default_rng(seed), []
    for mine in _per_user(users, items, liked):
        a, b = np.tril_indices(len(mine), -1)  # every pair with b < a, row by row
        n = len(a) if len(mine) >= 5 else 0
        pick = rng.choice(n, min(PER_USER, n), replace=False)
        pairs.append(np.stack([mine[a[pick]], mine[b[pick]]], axis=1))
    return np.concatenate(pairs)


def triplets(users, items, liked, disliked, seed):
    """(P, 3) user, liked, disliked; users with two liked items (one makes the profile) or more.

    users, items (N,), liked, disliked (N,) bool.
    """
    rng, found = np.random.default_rng(seed), []
    sides = (_per_user(users, items, among) for among in (liked, disliked))
    for user, (good, bad) in enumerate(zip(*sides, strict=True)):
        n = len(good) * len(bad) if len(good) >= 2 else 0
        pick = rng.choice(n, min(PER_USER, n), replace=False)
        g, b = np.divmod(pick, max(len(bad), 1))
        found.append(np.stack([np.full(len(pick), user), good[g], bad[b]], axis=1))
    return np.concatenate(found).astype(items.dtype)


def _per_user(users, items, among):
    """The items of user 0, 1, .., of the rows `among` (N,) bool, in the order given."""
    indptr, grouped = group_by_user(users[among], items[among], users.max() + 1)
    return np.split(grouped, indptr[1:-1])


def cache_of(embed, items):
    """(I, D) with the embeddings of these items; the rows of others are zero."""
    distinct = np.unique(items)
    vectors = torch.as_tensor(embed(distinct), device=enc.device())  # (n, D)
    cache = vectors.new_zeros(distinct[-1] + 1, vectors.shape[1])  # (I, D)
    cache[distinct] = vectors
    return cache


def sums_of(users, vectors):
    """(U, D) sums of the vectors (N, D) of each user's rows."""
    sums = vectors.new_zeros(users.max() + 1, vectors.shape[1])  # (U, D)
    return sums.index_add_(0, torch.as_tensor(users, device=sums.device).long(), vectors)


class Notebook:
    """Pairs of co-liked items, in-batch softmax; all train rows, as run."""

    def __init__(self, data, s):
        users, items, ratings = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
        liked = ratings >= float(data["liked"])  # (N,)
        self.items = notebook_pairs(users, items, liked, s.seed)  # (P, 2)

    def refresh(self, embed):
        pass

    def loss(self, rows, e):
        return pair_loss(e[:, 0], e[:, 1])


class Report:
    """Triplets against the leave-one-out profile; without the rows that choose alpha later."""

    def __init__(self, data, s):
        columns = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
        users, items, ratings = (column[~data["valid"]] for column in columns)  # (N,)
        liked = ratings >= float(data["liked"])  # (N,)
        disliked = ratings <= DISLIKED * float(data["highest"])  # (N,)
        found = triplets(users, items, liked, disliked, s.seed)  # (P, 3)
        self.users, self.items = found[:, 0], found[:, 1:]  # (P,), (P, 2)
        self.liked = users[liked], items[liked]

    def refresh(self, embed):
        """Embeddings of the liked items, and their sum for each user."""
        users, items = self.liked
        self.cache = cache_of(embed, items)  # (I, D)
        self.sums = sums_of(users, self.cache[items])  # (U, D)

    def loss(self, rows, e):
        target = self.cache[self.items[rows, 0]]  # (B, D)
        profile = F.normalize(self.sums[self.users[rows]] - target, dim=1)  # (B, D)
        return triplet_loss(profile, e[:, 0], e[:, 1])


RECIPES = {"notebook": Notebook, "report": Report}

# ------------------------------------------------------------------------------------------------
# Tuning
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    encoder: str  # minilm, mpnet, qwen3-0.6b, qwen3-4b, or a folder of sentence-transformers
    ratings: Path  # safetensors of main.py prepare
    texts: Path  # one document a line, in item order
    out: Path  # folder to write
    weights: str = ""  # folder with the named encoder's files; empty: from the hub
    recipe: Literal["notebook", "report"] = "notebook"  # whose examples and loss
    seed: int = 42  # of the examples, their order, LoRA's A and dropout
    epochs: int = 2  # as run
    batch: int = 16  # examples a step; as run: 16 MiniLM, 4 Qwen3
    lr: float = 2e-5  # sentence-transformers' default; LoRA wants about 2e-4
    warmup: int = 100  # steps of linear warm-up before linear decay; as run: 100 MiniLM, 50 Qwen3
    max_steps: int = 0  # stop after so many steps; 0: all
    lora: bool = False  # train low-rank additions instead of the whole encoder
    nf4: bool = False  # base in 4 bits (needs --lora)
    rank: int = 16  # of LoRA
    alpha: int = 32  # LoRA's additions are scaled by alpha / rank
    dropout: float = 0.1  # on LoRA's input
    targets: tuple[str, ...] = ()  # layers that LoRA adapts; none: those of queries and values
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the frozen weights and the arithmetic
    checkpointing: bool = False  # recompute activations: less memory, a third more time
    budget: int = 2048  # padded tokens a call; memory holds all calls of a step: see --batch


def build(s, facts, folder):
    """The encoder with what is to be trained switched on."""
    encoder = enc.load_encoder(facts, folder, s.nf4, s.dtype)
    model = with_lora(encoder.model, s, facts) if s.lora else encoder.model.requires_grad_(True)
    if s.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(s.seed + enc.rank_and_world()[0])  # dropout differs between processes
    return encoder._replace(model=model, facts=replace(facts, unit=True))  # losses are of cosines


def with_lora(model, s, facts):
    """The model, frozen, with fresh layers W + (alpha/r) B A for some W: A random, B zero."""
    import peft

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = s.targets or [name for name in QUERY_VALUE if name in names]
    if not targets:
        raise BadInput(f"{facts.hub} has no layer called {', '.join(QUERY_VALUE)}; give --targets")
    shape = {"r": s.rank, "lora_alpha": s.alpha, "lora_dropout": s.dropout}
    config = peft.LoraConfig(**shape, target_modules=list(targets))
    with enc.one_line("LoRA cannot adapt these --targets"):
        torch.manual_seed(s.seed)  # immediately before: get_peft_model draws A
        return peft.get_peft_model(model, config)


def optimiser_of(model, lr):
    """AdamW as sentence-transformers' fit() has it: decay .01, none on biases and LayerNorm."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if "bias" in n or "LayerNorm" in n]
    decayed = [p for n, p in named if not ("bias" in n or "LayerNorm" in n)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, fused=True)  # one pass over memory: a third of the time


def steps_of(s, examples):
    return s.epochs * -(-len(examples.items) // s.batch)  # the last batch of a pass may be small


def tune(encoder, ids, examples, s):
    """Train in place; returns the loss of every step. ids: token ids of every item."""
    # 1. The weights, their optimiser, and its rate: up over the warm-up, then down to zero
    params = [p for p in encoder.model.parameters() if p.requires_grad]
    optimiser, total = optimiser_of(encoder.model, s.lr), steps_of(s, examples)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, s.warmup, total)
    total, n = min(total, s.max_steps or total), len(examples.items)
    rng = np.random.default_rng(s.seed)  # of the order of the examples
    losses, negatives = [], []  # of each step: its loss, and its mean cosine of negatives
    with metrics.progress(total, str(s.out)) as bar:
        while len(losses) < total:
            # 2. A pass: all examples in a new order, profiles by the encoder as it is
            examples.refresh(lambda items: enc.embed(encoder, ids, items=items))
            encoder.model.train()
            order = rng.permutation(n)  # (P,)
            for rows in np.split(order, range(s.batch, n, s.batch))[: total - len(losses)]:
                # 3. A step along the batch's gradient, cut to length 1
                loss, positive, negative = backward(encoder, ids, examples, rows, s.budget)
                losses.append(loss)
                negatives.append(negative)
                alike = len(losses) >= 20 and min(negatives[-20:]) > 0.999  # no text differs
                if alike or not np.isfinite(loss):
                    found = f"loss {loss:.3f}, mean cosine of negatives {negative:.4f}"
                    raise BadInput(f"step {len(losses)}: {found}; lower --lr")
                torch.nn.utils.clip_grad_norm_(params, 1.0)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
                if len(losses) % 10 == 0:
                    enc.release_memory()
                bar.set_postfix_str(f"loss {loss:.3f} cos+ {positive:.3f} cos- {negative:.3f}")
                bar.update()
    return losses


def backward(encoder, ids, examples, rows, budget):
    """Loss and cosines of a step; leaves the gradient of the whole batch in the parameters.

    Each distinct item is encoded once. Under torchrun every process holds the full loss but the
    gradient of its own share of the texts; their sum is the gradient.
    """
    distinct, where = np.unique(examples.items[rows], return_inverse=True)
    vectors = enc.encode(encoder, [ids[i] for i in distinct], budget)  # (distinct items, D)
    e = vectors[where.reshape(len(rows), -1)]  # (B, M, D)
    loss, positive, negative = examples.loss(rows, e)
    loss.backward()
    if enc.rank_and_world()[1] > 1:
        for p in encoder.model.parameters():
            if p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
    return loss.item(), positive.mean().item(), negative.mean().item()


# ------------------------------------------------------------------------------------------------
# What it leaves behind
# ------------------------------------------------------------------------------------------------


def write_model(folder, encoder, base):
    """A folder that transformers and, as its base, sentence-transformers open; or an adapter."""
    encoder.model.save_pretrained(folder)
    if hasattr(encoder.model, "peft_config"):
        return
    encoder.tokenizer.save_pretrained(folder)
    for pattern in ("modules.json", "*_Pooling/config.json", *enc.TEXT_FILES):
        for path in base.glob(pattern):
            new = folder / path.relative_to(base)
            new.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, new)


def peak_memory():
    """The most bytes that this process has held so far; None where nobody counts them."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # elsewhere it counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def save(s, encoder, base, losses, seconds):
    """Write the folder s.out: the tuned model, or its adapter, and training.json, its record.

    base is the folder of the weights that the tuning began with.
    """
    total = encoder.model.num_parameters()  # packed 4-bit weights count as what they hold
    trained = encoder.model.num_parameters(only_trainable=True)
    cuda, here = torch.cuda, peak_memory()
    record = metrics.origin(vars(s), [s.ratings, s.texts]) | {
        "weights": {path.name: sha256(path) for path in enc.weight_files(base)},
        "trainable": trained,
        "parameters": total,
        "trainable_share": trained / total,
        "peak_memory_bytes": cuda.max_memory_allocated() if cuda.is_available() else here,
        "seconds": round(seconds, 1),
        "losses": losses,
    }
    with metrics.whole(s.out, folder=True) as new, enc.one_line(f"{s.out} cannot be written"):
        write_model(new, encoder, base)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        record["files"] = {str(path.relative_to(new)): sha256(path) for path in files}
        record = metrics.with_checksum(record)
        (new / "training.json").write_text(json.dumps(record, indent=1))


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


def read_settings(kind, doc, **bounds):
    """Settings, or a dataclass of their kind, from the command line; refuses what cannot go on."""
    bounds |= dict.fromkeys(("epochs", "batch", "rank", "alpha", "budget"), 1)
    bounds |= dict.fromkeys(("lr", "warmup", "max_steps"), 0)
    s = metrics.parse(kind, doc, dropout=(0, 1), seed=metrics.SEEDS, **bounds)
    if s.nf4 and not s.lora:
        raise BadInput("--nf4 freezes the encoder: give --lora too")
    if not s.lora and s.dtype != "float32":
        raise BadInput(f"--dtype {s.dtype} rounds small updates away: whole tuning needs float32")
    return s


def read_inputs(s, recipes=RECIPES):
    """(examples, texts): those of the recipe, and a text for each item."""
    names = ["train_users", "train_items", "train_ratings", "valid", "liked", "highest"]
    data, texts = metrics.load(s.ratings, names=[*names, "user_ids"]), enc.read_texts(s.texts)
    metrics.check_texts(s.texts, [sha256(s.texts)], s.ratings)
    users, items = (s.ratings, len(data["user_ids"])), (s.texts, len(texts))
    for name, (file, n) in (("users", users), ("items", items)):
        ids = data[f"train_{name}"]  # (N,)
        if ids.min(initial=0) < 0 or ids.max(initial=0) >= n:
            raise BadInput(f"{s.ratings} has {name} {ids.min()} to {ids.max()}, {file} only {n}")
    examples = recipes[s.recipe](data, s)
    if len(examples.items) == 0:
        what = "no user has liked enough" + (", or disliked any" if s.recipe == "report" else "")
        raise BadInput(f"{s.ratings}: {what}, for recipe {s.recipe!r}")
    return examples, texts


def main():
    # 1. Settings, examples, texts
    s = read_settings(Settings, __doc__)
    enc.start_processes()
    examples, texts = read_inputs(s)
    with metrics.stage(s.out, f"tuning of {s.encoder}, recipe {s.recipe}", folder=True) as figure:
        # 2. The encoder
        facts, folder = enc.find_encoder(s.encoder, s.weights)
        encoder = build(s, facts, folder)
        if s.lora:
            layers = encoder.model.peft_config["default"].target_modules
            print(f"{s.out}: LoRA on the layers called {' and '.join(sorted(layers))}")
        ids, start = enc.tokenize(encoder, texts, figure), time.perf_counter()
        # 3. Tuning
        if s.warmup >= steps_of(s, examples):  # the rate would never reach --lr
            s = replace(s, warmup=steps_of(s, examples) // 10)  # the field's habit
            figure(f"warm-up cut to {s.warmup} steps")
        losses = tune(encoder, ids, examples, s)
        n = min(50, -(-len(losses) // 2))
        figure(f"loss {np.mean(losses[:n]):.3f} -> {np.mean(losses[-n:]):.3f}")
        # 4. The folder
        if enc.rank_and_world()[0] == 0:
            save(s, encoder, folder, losses, time.perf_counter() - start)


if __name__ == "__main__":
    metrics.run(main)
