"""MiniLM tuned for recipe `ours`: a softmax over the movies of a batch. Table III has its rows.

A batch is B distinct movies; every user u with a liked movie in it and another one outside is a
row, and the mean runs over rows and over the movies i of the batch that u liked:

    L = -mean log( exp(z_ui) / (exp(z_ui) + sum over j in the batch not liked of exp(z_uj)) )
    z_uj = cos(p_u, e_j - mean) / t + log(1 + likes of j)                                     (T)

p_u is the unit sum of what u liked OUTSIDE the batch, so it never holds its target. The last term
leaves to popularity what popularity explains. The encoder trains without its own dropout, and the
weights after each of the last passes are averaged.

The recipe itself takes MiniLM untuned: as the prior of the ranking PMF, this one is no better.

Gives:    a folder that encode.py reads, in --out.
Command:  python tests/studies/batch_softmax.py --encoder minilm --weights data/minilm \\
              --texts out/documents-no-leak.txt --ratings out/ratings.safetensors \\
              --out out/minilm-ours
Legend:   U users, I items, N ratings, P examples, B batch, R rows, D dimensions.
"""

import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import torch.nn.functional as F

import contrastive as con
import encode as enc
import metrics
from metrics import BadInput, group_by_user, pairs_of_block


@dataclass(frozen=True)
class Settings(con.Settings):  # chosen on the validation part, see results/tuned.md
    recipe: Literal["ours"] = "ours"
    batch: int = 64
    epochs: int = 8
    lr: float = 1e-4
    warmup: int = 42
    temperature: float = 0.2  # t of (T)
    average: int = 3  # leave the mean of the weights after so many last passes


def batch_softmax(profiles, items, liked, log_likes, temperature):
    """(T) above: profiles (R, D) and centred items (B, D) of length 1, liked (R, B) bool.

    Other movies that the row liked are no negatives of a target. log_likes (B,). No rows: loss 0.
    """
    cosines = profiles @ items.T  # (R, B)
    z = cosines / temperature + log_likes  # (R, B)
    others = z.masked_fill(liked, -torch.inf).logsumexp(dim=1, keepdim=True)  # (R, 1)
    each = (torch.logaddexp(z, others) - z) * liked  # (R, B)
    loss = (each.sum(dim=1) / liked.sum(dim=1)).sum() / max(len(each), 1)  # (T)
    return loss, cosines[liked].detach(), cosines[~liked].detach()


class Ours:
    """A movie is an example, the users are the rows, (T); without the rows that choose settings.

    Profiles come from a cache of embeddings: whole before the first pass, then renewed by each
    batch as it is encoded. So every movie is encoded once a pass, and no profile is far behind.
    """

    def __init__(self, data, s):
        liked = ~data["valid"] & (data["train_ratings"] >= float(data["liked"]))  # (N,)
        self.liked = users, items = data["train_users"][liked], data["train_items"][liked]
        self.totals, self.likes = np.bincount(users), np.bincount(items)  # (U,), (I,)
        self.items = np.flatnonzero(self.likes >= 2)[:, None]  # (P, 1); one fan alone is no link
        self.fans = group_by_user(items, users, len(self.likes))  # by item: who liked it
        self.temperature = s.temperature
        self.cache = None  # (I, D) as encoded last
        self.params = []  # of the encoder, which tune() hands in
        self.ends = deque(maxlen=s.average - 1)  # weights after each of the last passes but one

    def refresh(self, embed):
        """The centre, and for each user the sum of the liked items; keeps the weights so far."""
        if self.cache is not None:  # a pass has ended
            self.ends.append([p.detach().clone() for p in self.params])
        users, items = self.liked
        self.cache = con.cache_of(embed, items) if self.cache is None else self.cache  # (I, D)
        self.mean = self.cache[self.items[:, 0]].mean(dim=0)  # (D,)
        self.sums = con.sums_of(users, self.centred(self.cache[items]))  # (U, D)

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
        profiles = F.normalize(outside[able], dim=1)  # p_u
        log_likes = torch.as_tensor(np.log1p(self.likes[batch])).to(e)  # (B,)
        result = batch_softmax(profiles, fresh, liked[able], log_likes, self.temperature)
        self.sums[users] += liked.float() @ (fresh.detach() - old)
        self.cache[batch] = e.detach()
        return result

    def average(self):
        """Put the mean of the weights after the last passes into the encoder."""
        with torch.no_grad():
            for p, *ends in zip(self.params, *self.ends, strict=True):
                p.copy_(torch.stack([*ends, p]).mean(dim=0))


RECIPES = {"ours": Ours}


def tune(encoder, ids, examples, s):
    """Train an encoder of contrastive.build in place; returns the loss of every step."""
    for module in encoder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    examples.params = list(encoder.model.parameters())
    losses = con.tune(encoder, ids, examples, s)
    examples.average()
    return losses


def main():
    s = con.read_settings(Settings, __doc__, temperature=1e-3, average=1)
    if s.average > s.epochs:
        raise BadInput(f"--average {s.average} is more than --epochs {s.epochs}")
    if s.lora:
        raise BadInput("all weights are tuned here: leave --lora out")
    examples, texts = con.read_inputs(s, RECIPES)
    if s.warmup >= con.steps_of(s, examples):
        raise BadInput(f"--warmup {s.warmup}: a run of so few steps would never reach --lr")
    with metrics.stage(s.out, f"tuning of {s.encoder}, recipe ours", folder=True) as figure:
        facts, folder = enc.find_encoder(s.encoder, s.weights)
        encoder = con.build(s, facts, folder)
        ids, start = enc.tokenize(encoder, texts, figure), time.perf_counter()
        losses = tune(encoder, ids, examples, s)
        figure(f"loss {np.mean(losses[:50]):.3f} -> {np.mean(losses[-50:]):.3f}")
        con.save(s, encoder, folder, losses, time.perf_counter() - start)


if __name__ == "__main__":
    metrics.run(main)
