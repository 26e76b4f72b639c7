"""Contrastive tuning of an encoder on what users liked: whole, or by LoRA on an NF4 base.

Recipe `published`: pairs (a, b) of movies that one user liked, the other b of the batch as
negatives (multiple negatives ranking: Henderson et al. 2017, section 4.4), e unit embeddings:

    L = -1/B sum_i log( exp(20 e_ai.e_bi) / sum_j exp(20 e_ai.e_bj) )

Recipe `report`: triplets (user, liked, disliked) against the user's profile p, the centroid of the
OTHER movies the user liked (report, II.C; the softmax of InfoNCE, van den Oord et al. 2018):

    L = -1/B sum_i log( exp(p_i.e_li / t) / (exp(p_i.e_li / t) + exp(p_i.e_di / t)) )

Recipe `ours`: a batch is B distinct movies; every user u with a liked movie in it and another one
outside is a row, and the mean runs over rows and over the movies i of the batch that u liked:

    L = -mean log( exp(z_ui) / (exp(z_ui) + sum over j in the batch not liked of exp(z_uj)) )
    z_uj = cos(p_u, e_j - mean) / t + log(1 + likes of j)                                     (T)

p_u is the unit sum of what u liked OUTSIDE the batch, so it never holds its target. The last term
leaves to popularity what popularity explains.

LoRA (Hu et al. 2022) adds (alpha/r) B A to chosen layers and trains A, B alone; on an NF4 base
that is QLoRA (Dettmers et al. 2023).

    python contrastive.py --encoder minilm --weights data/minilm --ratings out/ratings.safetensors \
        --texts out/documents.txt --recipe published --seed 42 --out out/minilm-tuned
    python contrastive.py --encoder qwen3-4b --lora --nf4 --dtype bfloat16 --batch 4 --warmup 50 ...
    python contrastive.py --recipe ours --batch 64 --epochs 8 --lr 1e-4 --warmup 42 --average 3 ...
    torchrun --nproc-per-node 2 contrastive.py ...     # each process encodes its share of a step

Writes the folder --out: a model that sentence-transformers opens, or with --lora a peft adapter;
and in it training.json: settings, inputs, versions, losses, trainable share, memory, time.
--check writes nothing: it refuses early what cannot run here, and tells what the rest needs.
Legend: U users, I items, N ratings, P examples, B batch, D dimensions.
"""

import json
import resource
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from tqdm import tqdm

import encode as enc
import metrics
from metrics import BadInput, group_by_user, pairs_of_block, parse, run, sha256

LIKED, DISLIKED = 4.0, 2.5  # Report silent on "disliked": <= 2.5, the lower half of 0.5 .. 5
PER_USER = 10  # examples a user, in the published run; Report silent: the same for triplets
BYTES_NF4 = 4.127 / 8  # a weight in NF4 with double quantisation: 4 bits, 8/64 and 32/(64 256) more

# ------------------------------------------------------------------------------------------------
# Losses: pure functions of unit embeddings; each returns (loss, positive cosines, negative cosines)
# ------------------------------------------------------------------------------------------------


def pair_loss(a, b, scale=20.0):
    """In-batch softmax, L of `published` above. a, b: (B, D); row i of both is one pair.

    scale 20 and one direction (a to b) are sentence-transformers' MultipleNegativesRankingLoss,
    which the published run used; like it, we do not mask an item that is twice in the batch.
    """
    cosines = a @ b.T  # (B, B)
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)  # (B, B)
    loss = F.cross_entropy(scale * cosines, torch.arange(len(a), device=a.device))
    return loss, cosines[own].detach(), cosines[~own].detach()


def triplet_loss(profile, liked, disliked, temperature=0.07):
    """L of `report` above: softplus((p.d - p.l) / t). profile, liked, disliked: (B, D).

    Report silent on the form ("a contrastive loss"): we take the softmax of one positive against
    the user's disliked movie, because unlike a margin it needs no cosine that is out of reach;
    t = .07 is the usual choice (He et al. 2020). The profile is a constant: no gradient enters it.
    """
    positive = (profile * liked).sum(dim=1)  # (B,)
    negative = (profile * disliked).sum(dim=1)  # (B,)
    loss = F.softplus((negative - positive) / temperature).mean()
    return loss, positive.detach(), negative.detach()


def batch_softmax(profiles, items, liked, log_likes, temperature=0.2):
    """(T) of `ours` above: profiles (R, D) and centred items (B, D) of length 1, liked (R, B) bool.

    Other movies that the row liked are no negatives of a target. log_likes (B,). No rows: loss 0.
    t = .2 ranked validation users better than .07: the sharper softmax overfits few likes.
    """
    cosines = profiles @ items.T  # (R, B)
    z = cosines / temperature + log_likes  # (R, B)
    others = z.masked_fill(liked, -torch.inf).logsumexp(dim=1, keepdim=True)  # (R, 1)
    each = (torch.logaddexp(z, others) - z) * liked  # (R, B)
    loss = (each.sum(dim=1) / liked.sum(dim=1)).sum() / max(len(each), 1)
    return loss, cosines[liked].detach(), cosines[~liked].detach()


# ------------------------------------------------------------------------------------------------
# Recipes: which items an example holds, and its loss. A recipe has
#   items (P, M): what a step must encode;  refresh(embed): called before each pass;
#   loss(rows (B,), e (B, M, D)) -> (loss, positive cosines, negative cosines);
#   dropout: whether the encoder trains with its own dropout
# ------------------------------------------------------------------------------------------------


def published_pairs(users, items, ratings, seed):
    """(P, 2) pairs of different items that one user liked; users with 5 liked items or more."""
    rng = np.random.default_rng(seed)
    liked = ratings >= LIKED  # (N,)
    pairs = [np.empty((0, 2), dtype=items.dtype)]
    for mine in _per_user(users[liked], items[liked], users.max() + 1):
        if len(mine) >= 5:
            n = len(mine) * (len(mine) - 1) // 2
            pick = rng.choice(n, min(PER_USER, n), replace=False)
            a = ((1 + np.sqrt(8 * pick + 1)) / 2).astype(
                int
            )  # pair number a (a - 1) / 2 + b, b < a
            pairs.append(np.stack([mine[a], mine[pick - a * (a - 1) // 2]], axis=1))
    return np.concatenate(pairs)


def triplets(users, items, ratings, seed):
    """(P, 3) user, liked, disliked; users with two liked items (one makes the profile) or more."""
    rng = np.random.default_rng(seed)
    liked, disliked = ratings >= LIKED, ratings <= DISLIKED  # (N,)
    found = [np.empty((0, 3), dtype=items.dtype)]
    n_users = users.max() + 1
    good = _per_user(users[liked], items[liked], n_users)
    bad = _per_user(users[disliked], items[disliked], n_users)
    for user, (g, b) in enumerate(zip(good, bad, strict=True)):
        if len(g) >= 2 and len(b) >= 1:
            n = len(g) * len(b)
            pick = rng.choice(n, min(PER_USER, n), replace=False)
            rows = [np.full(len(pick), user), g[pick // len(b)], b[pick % len(b)]]
            found.append(np.stack(rows, axis=1).astype(items.dtype))
    return np.concatenate(found)


def _per_user(users, items, n_users):
    """The items of user 0, 1, .., in the order given."""
    indptr, grouped = group_by_user(users, items, n_users)
    return np.split(grouped, indptr[1:-1])


class Published:
    """Pairs of co-liked items, in-batch softmax; all train rows, as run."""

    dropout = True

    def __init__(self, data, seed):
        users, items, ratings = (data[f"train_{name}"] for name in ("users", "items", "ratings"))
        self.items = published_pairs(users, items, ratings, seed)  # (P, 2)

    def refresh(self, embed):
        pass

    def loss(self, rows, e):
        return pair_loss(e[:, 0], e[:, 1])


class Report:
    """Triplets against the leave-one-out profile; without the rows that choose alpha later."""

    dropout = True

    def __init__(self, data, seed):
        kept = ~data["valid"]  # (N,)
        columns = (data[f"train_{name}"][kept] for name in ("users", "items", "ratings"))
        users, items, ratings = columns
        found = triplets(users, items, ratings, seed)  # (P, 3)
        self.users, self.items = found[:, 0], found[:, 1:]  # (P,), (P, 2)
        liked = ratings >= LIKED
        self.liked = users[liked], items[liked]

    def refresh(self, embed):
        """Cached unit embeddings of the liked items, and their sum for each user."""
        users, items = self.liked
        distinct, where = np.unique(items, return_inverse=True)
        self.place = np.zeros(items.max() + 1, dtype=int)  # item -> row of the cache
        self.place[distinct] = np.arange(len(distinct))
        self.cache = embed(distinct)  # (liked items, D)
        self.sums = self.cache.new_zeros(users.max() + 1, self.cache.shape[1])  # (U, D)
        owners = torch.as_tensor(users, device=self.sums.device).long()
        self.sums.index_add_(0, owners, self.cache[where])

    def loss(self, rows, e):
        target = self.cache[self.place[self.items[rows, 0]]]  # (B, D)
        profile = F.normalize(self.sums[self.users[rows]] - target, dim=1)  # (B, D)
        return triplet_loss(profile, e[:, 0], e[:, 1])


class Ours:
    """A movie is an example, the users are the rows, (T); without the rows that choose settings.

    Profiles come from a cache of embeddings: whole before the first pass, then renewed by each
    batch as it is encoded. So every movie is encoded once a pass, and no profile is far behind.
    """

    dropout = False  # the settings were chosen without it

    def __init__(self, data, seed):
        liked = ~data["valid"] & (data["train_ratings"] >= LIKED)  # (N,)
        self.liked = users, items = data["train_users"][liked], data["train_items"][liked]
        self.totals, self.likes = np.bincount(users), np.bincount(items)  # (U,), (I,)
        self.items = np.flatnonzero(self.likes >= 2)[:, None]  # (P, 1); one fan alone is no link
        self.fans = group_by_user(items, users, len(self.likes))  # by item: who liked it
        self.cache = None  # (I, D) as encoded last

    def refresh(self, embed):
        """The centre, and for each user the sum of the liked items."""
        users, items = self.liked
        if self.cache is None:
            distinct = np.unique(items)
            vectors = embed(distinct)  # (liked items, D)
            self.cache = vectors.new_zeros(len(self.likes), vectors.shape[1])  # (I, D)
            self.cache[distinct] = vectors
        self.mean = self.cache[self.items[:, 0]].mean(dim=0)  # (D,)
        self.sums = self.cache.new_zeros(len(self.totals), len(self.mean))  # (U, D)
        owners = torch.as_tensor(users, device=self.sums.device).long()
        self.sums.index_add_(0, owners, self.centred(self.cache[items]))

    def centred(self, e):
        return F.normalize(e - self.mean, dim=1)

    def rows_of(self, batch):
        """Users (R,) who liked something in the batch, what (R, B), and which rows can teach."""
        columns, fans = pairs_of_block(self.fans, batch)  # (M,) each
        users, lines = np.unique(fans, return_inverse=True)  # (R,), (M,)
        liked = np.zeros((len(users), len(batch)), dtype=bool)  # (R, B)
        liked[lines, columns] = True
        inside = liked.sum(axis=1)  # (R,)
        able = (inside < self.totals[users]) & (inside < len(batch))  # a profile, and a negative
        return users, liked, able

    def loss(self, rows, e):
        batch, e = self.items[rows, 0], e[:, 0]  # (B,), (B, D)
        parts = self.rows_of(batch)
        users, liked, able = (torch.as_tensor(x, device=e.device) for x in parts)
        fresh, old = self.centred(e), self.centred(self.cache[batch])  # (B, D)
        outside = self.sums[users] - liked.float() @ old  # (R, D)
        log_likes = torch.as_tensor(np.log1p(self.likes[batch])).to(e)  # (B,)
        profiles = F.normalize(outside[able], dim=1)
        result = batch_softmax(profiles, fresh, liked[able], log_likes)
        self.sums[users] += liked.float() @ (fresh.detach() - old)
        self.cache[batch] = e.detach()
        return result


RECIPES = {"published": Published, "report": Report, "ours": Ours}

# ------------------------------------------------------------------------------------------------
# Tuning
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    encoder: str  # minilm, qwen3-0.6b, qwen3-4b, or a folder of weights
    ratings: Path  # safetensors of main.py prepare
    texts: Path  # one document a line, in item order
    out: Path  # folder to write
    weights: str = ""  # folder with the named encoder's files; empty: from the hub
    recipe: Literal["published", "report", "ours"] = "published"  # whose examples and loss
    seed: int = 42  # of the examples, their order, LoRA's A and dropout
    epochs: int = 2  # as run
    batch: int = 16  # examples a step; as run: 16 MiniLM, 4 Qwen3
    lr: float = 2e-5  # sentence-transformers' default; LoRA wants about 2e-4
    warmup: int = 100  # steps of linear warm-up before linear decay; as run: 100 MiniLM, 50 Qwen3
    whole_train: bool = False  # recipes report, ours: keep the validation part, once all is chosen
    average: int = 0  # leave the mean of the weights after the last so many epochs; 0: the last
    max_steps: int = 0  # stop after so many steps; 0: all
    lora: bool = False  # train low-rank additions instead of the whole encoder
    nf4: bool = False  # base in 4 bits (needs --lora)
    rank: int = 16  # of LoRA
    alpha: int = 32  # LoRA's additions are scaled by alpha / rank
    dropout: float = 0.1  # on LoRA's input
    targets: tuple[str, ...] = ()  # layers that LoRA adapts; none: the encoder's own default
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the frozen weights and the arithmetic
    checkpointing: bool = False  # recompute activations: less memory, a third more time
    budget: int = 2048  # padded tokens a micro-batch
    check: bool = False  # only tell whether, and for how long, this would run here


def build(s, facts, folder):
    """The encoder with what is to be trained switched on."""
    encoder = enc.load_encoder(facts, folder, s.nf4, s.dtype)
    for module in encoder.model.modules():
        if isinstance(module, torch.nn.Dropout) and not RECIPES[s.recipe].dropout:
            module.p = 0.0
    model = with_lora(encoder.model, s, facts) if s.lora else encoder.model.requires_grad_(True)
    if s.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(s.seed + enc.rank_and_world()[0])  # dropout differs between processes
    return encoder._replace(model=model)


def with_lora(model, s, facts):
    """The model, frozen, with fresh LoRA layers: A random, B zero."""
    import peft

    config = peft.LoraConfig(
        r=s.rank,
        lora_alpha=s.alpha,
        lora_dropout=s.dropout,
        target_modules=list(s.targets or facts.targets),
    )
    with enc.quiet():
        torch.manual_seed(s.seed)  # immediately before: get_peft_model draws A
        return peft.get_peft_model(model, config)


def trainable(model):
    """(trained, all) parameters; packed 4-bit weights count as what they hold."""
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    return (sum(p.numel() for p in model.parameters()),) * 2


def optimiser_of(model, lr):
    """AdamW as sentence-transformers' fit() has it: decay .01, none on biases and LayerNorm."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if "bias" in n or "LayerNorm" in n]
    decayed = [p for n, p in named if not ("bias" in n or "LayerNorm" in n)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, fused=True)  # one pass over memory: a third of the time


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


class Watch:
    """Stops a run whose loss is not finite or whose embeddings have collapsed to one direction."""

    def __init__(self, patience=20, ceiling=0.999):
        self.left, self.patience, self.ceiling = patience, patience, ceiling

    def see(self, step, loss, negative):
        if not np.isfinite(loss):
            raise BadInput(f"step {step}: the loss is {loss}; lower --lr or use --dtype float32")
        self.left = self.left - 1 if negative > self.ceiling else self.patience
        if self.left == 0:
            raise BadInput(
                f"step {step}: embeddings collapsed, negatives have a mean cosine of {negative:.3f}"
                f" for {self.patience} steps; lower --lr"
            )


def tune(encoder, ids, examples, s):
    """Train in place; returns the loss of every step. ids: token ids of every item."""
    model, rng = encoder.model, np.random.default_rng(s.seed)
    n = len(examples.items)
    total = s.epochs * -(-n // s.batch)
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = optimiser_of(model, s.lr)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, s.warmup, total)
    total = min(total, s.max_steps or total)
    losses, watch, tokens, start = [], Watch(), 0, time.perf_counter()
    recent = deque(maxlen=s.average)  # weights after each of the last epochs
    with tqdm(total=total, desc="tuning", disable=enc.rank_and_world()[0] > 0 or None) as bar:
        while len(losses) < total:
            examples.refresh(lambda items: embed_items(encoder, ids, items))
            model.train()
            order = rng.permutation(n)  # (P,)
            for rows in np.split(order, range(s.batch, n, s.batch))[: total - len(losses)]:
                loss, positive, negative = backward(encoder, ids, examples, rows, s.budget)
                watch.see(len(losses), loss, negative)
                torch.nn.utils.clip_grad_norm_(params, 1.0)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
                losses.append(loss)
                tokens += sum(len(ids[i]) for i in np.unique(examples.items[rows]))
                speed = tokens / (time.perf_counter() - start)
                bar.set_postfix_str(
                    f"loss {loss:.3f} cos+ {positive:.3f} cos- {negative:.3f} {speed:.0f} tok/s"
                )
                bar.update()
            if s.average:
                recent.append([p.detach().clone() for p in params])
    with torch.no_grad():
        for p, *after in zip(params, *recent, strict=True) if recent else ():
            p.copy_(torch.stack(after).mean(dim=0))
    return losses


def embed_items(encoder, ids, items):
    vectors = enc.embed(encoder, [ids[i] for i in items])  # (n, D)
    return torch.from_numpy(vectors).to(enc.device())


# ------------------------------------------------------------------------------------------------
# What it needs, and what it leaves behind
# ------------------------------------------------------------------------------------------------


def memory_need(config, facts, s, tokens):
    """Bytes of {"weights", "training", "activations"} for a step of so many tokens.

    A dry run on the meta device, which has shapes but no memory: what autograd saves is counted,
    not guessed. Training: float32 parameter, gradient and AdamW's two moments, 16 bytes each.
    """
    width = enc.DTYPES[s.dtype].itemsize
    with torch.device("meta"), enc.quiet():
        model = transformers.AutoModel.from_config(config, dtype=enc.DTYPES[s.dtype])
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
        plain = sum(p.numel() for p in model.parameters()) - linear
        weights = linear * (BYTES_NF4 if s.nf4 else width) + plain * width
        if s.lora:
            model = with_lora(model, s, facts)
        trained = trainable(model)[0]
        saved = _saved_bytes(model, tokens)
    if s.checkpointing:  # each layer's input, and one layer in full
        layers = config.num_hidden_layers
        saved = saved / layers + layers * tokens * config.hidden_size * width
    return {"weights": weights, "training": 16 * trained, "activations": saved}


def _saved_bytes(model, tokens, length=128):
    """What autograd would keep for a backward pass over rows of `length` tokens, on meta."""
    held = {}
    constant = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in constant:
            held[storage._cdata] = storage.nbytes()
        return tensor

    ids = torch.zeros(-(-tokens // length), length, dtype=torch.long)  # (B, T)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids).last_hidden_state.sum()
    return sum(held.values())


def check(s):
    """Refuse what cannot run here, before anything large is fetched; tell what the rest needs."""
    cuda, known = torch.cuda.is_available(), enc.ENCODERS.get(s.encoder)
    if known and known.parameters > 1e9 and not cuda:
        raise BadInput(
            f"{known.hub} needs a CUDA GPU and there is none (on a CPU it would take days);"
            " run where there is one, or take Qwen/Qwen3-Embedding-0.6B, which a CPU can run"
        )
    facts, folder = enc.find(s.encoder, s.weights, files=["*.json", "*.txt"])  # small files first
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = enc.tokenize(enc.Encoder(None, tokenizer, facts), enc.read_texts(s.texts))
    examples = read_examples(s)
    longest = sorted(sum(len(ids[i]) for i in row) for row in examples.items)[-s.batch :]
    need = memory_need(config, facts, s, sum(longest))
    free = torch.cuda.mem_get_info()[0] if cuda else _free_memory()
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in need.items())
    print(f"needs {sum(need.values()) / 1e9:.1f} GB ({parts}); free {free / 1e9:.1f} GB")
    if sum(need.values()) > 0.95 * free:
        raise BadInput("too little memory; try --checkpointing, --nf4 --lora or a smaller --batch")
    facts, folder = enc.find(s.encoder, s.weights)
    if not cuda:
        seconds = probe(build(s, facts, folder), ids, examples, s)
        print(f"on this CPU: about {seconds / 60:.0f} minutes to tune and to encode all texts")


def _free_memory():
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def probe(encoder, ids, examples, s):
    """Seconds that the whole tuning and one encoding would take, by a few timed batches."""
    rng = np.random.default_rng(0)
    steps = s.max_steps or s.epochs * -(-len(examples.items) // s.batch)
    examples.refresh(lambda items: torch.randn(len(items), encoder.model.config.hidden_size))
    encoder.model.train()
    start = time.perf_counter()
    for _ in range(3):
        rows = rng.choice(len(examples.items), s.batch)
        backward(encoder, ids, examples, rows, s.budget)
    step = (time.perf_counter() - start) / 3
    chosen = rng.choice(len(ids), min(200, len(ids)), replace=False)
    start = time.perf_counter()
    enc.embed(encoder, [ids[i] for i in chosen], s.budget)
    share = len(chosen) / len(ids)
    return steps * step + (time.perf_counter() - start) / share


def write_model(folder, encoder):
    """A folder that transformers and sentence-transformers open, or a plain peft adapter."""
    model, facts = encoder.model, encoder.facts
    model.save_pretrained(folder)
    if hasattr(model, "peft_config"):
        return
    encoder.tokenizer.save_pretrained(folder)
    pooling = {
        "word_embedding_dimension": model.config.hidden_size,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": facts.pooling == "mean",
        "pooling_mode_lasttoken": facts.pooling == "last",
    }
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": facts.max_length, "do_lower_case": False},
    }
    for path, _ in kinds:
        (folder / path).mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2))


def report_of(s, encoder, folder, losses, seconds):
    """What training.json holds."""
    trained, total = trainable(encoder.model)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of the whole process
    return {
        "settings": {k: v if isinstance(v, tuple) else str(v) for k, v in asdict(s).items()},
        "inputs": {p.name: sha256(p) for p in (s.ratings, s.texts)},
        "weights": {p.name: sha256(p) for p in enc.weight_files(folder)},
        "versions": metrics.versions(),
        "trainable": trained,
        "parameters": total,
        "trainable_share": trained / total,
        "peak_memory_bytes": peak,
        "seconds": round(seconds, 1),
        "losses": losses,
    }


def read_examples(s):
    """The recipe's examples of a ratings file."""
    data = metrics.load(s.ratings)
    if s.whole_train:
        data["valid"] = np.zeros_like(data["valid"])  # (N,)
    examples = RECIPES[s.recipe](data, s.seed)
    if len(examples.items) == 0:
        raise BadInput(f"{s.ratings}: no user has liked enough for recipe {s.recipe!r}")
    return examples


def main():
    counts = dict.fromkeys(("epochs", "batch", "rank", "alpha", "budget"), 1)
    counts |= dict.fromkeys(("lr", "warmup", "average", "max_steps"), 0)
    s = parse(Settings, __doc__, dropout=(0, 1), seed=metrics.SEEDS, **counts)
    if s.nf4 and not s.lora:
        raise BadInput("--nf4 freezes the encoder: give --lora too")
    if not s.lora and s.dtype != "float32":
        raise BadInput(f"--dtype {s.dtype} rounds small updates away: whole tuning needs float32")
    if s.check:
        return check(s)
    enc.start_processes()
    examples, texts = read_examples(s), enc.read_texts(s.texts)
    if examples.items.max() >= len(texts):
        raise BadInput(f"{s.texts} has {len(texts)} lines, {s.ratings} has more items")
    facts, folder = enc.find(s.encoder, s.weights)
    encoder = build(s, facts, folder)
    start = time.perf_counter()
    losses = tune(encoder, enc.tokenize(encoder, texts), examples, s)
    if enc.rank_and_world()[0] == 0:
        record = report_of(s, encoder, folder, losses, time.perf_counter() - start)
        with metrics.whole_folder(s.out) as temporary:
            write_model(temporary, encoder)
            (temporary / "training.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    run(main)
