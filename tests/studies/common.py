"""What studies and tests share: the machine, what an interval looks like, what a command takes,
commands whose files are missing, whether two files are of one split, the objectives of pmf.py, the
Gini coefficient, and a late fusion that `ours` lacks.

    Gini = sum_i (2 i - n - 1) x_i / (n sum_i x_i)        for x_1 <= .. <= x_n

Gives:    a Gini coefficient of 0 for equal counts, of 3/4 for counts of 0, 0, 0 and 8.
"""

import contextlib
import io
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fuse
from metrics import BadInput

ROOT = Path(__file__).parents[2]


def machine():
    """One line: the name of the processor, its cores, its memory as far as the system tells."""
    parts = [platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    processors = Path("/proc/cpuinfo")  # Linux
    for line in processors.read_text().splitlines() if processors.is_file() else ():
        if line.startswith("model name"):
            parts[0] = line.split(":", 1)[1].strip()
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # Linux, macOS
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        parts.append(f"{memory / 2**30:.0f} GB")
    return ", ".join(parts)


def interval(difference):
    """A (mean, low, high) of metrics.paired_bootstrap as the tables show it."""
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*difference)


def make_missing(lines):
    """Run the scripts that make what is not there yet: {file: "script arguments"}, in order."""
    for path, line in lines.items():
        script, *arguments = line.split()
        if (
            not path.exists()
            and subprocess.run([sys.executable, ROOT / script, *arguments]).returncode
        ):
            raise BadInput(f"{path} was not made: {line} failed")


def drawn(made):
    """What identifies a split: the file of ratings, how it was drawn, and what is to be found.

    made: provenance of a ratings.safetensors.
    """
    keys, settings = ("seed", "valid_seed", "valid_share"), made["settings"]
    liked = settings["edition"].partition("liked from")[2]  # "" unless it is not the usual one
    return made["inputs"]["ratings.csv"], liked, *(settings[key] for key in keys)


def timed(script, *arguments, folder, stdout=subprocess.DEVNULL):
    """{"seconds", "cpu_seconds", "peak_bytes"} of a command; memory below our own is not seen.

    script: one of the project's, or an option of Python.
    """
    script = ROOT / script if script.endswith(".py") else script
    start, line = time.perf_counter(), [sys.executable, script, *arguments]
    process = subprocess.Popen(line, stdout=stdout, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BadInput(f"{script} {' '.join(arguments)} ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # elsewhere it counts KiB
    found = {"seconds": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * unit}
    return found | {"cpu_seconds": usage.ru_utime + usage.ru_stime}


def quiet():
    """Without the bar that each fit shows: here are many."""
    return contextlib.redirect_stdout(io.StringIO())


def gini(counts):
    """Gini coefficient of counts (n,): 0 if all are equal, (n - 1) / n if one has everything."""
    counts, n = np.sort(counts), len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * counts.sum()))


def squared_error(U, V, users, items, targets):
    """Mean squared error of scaled ratings, targets (N,), by factors of pmf.fit."""
    logits = np.einsum("nk,nk->n", U[users], V[items]).astype(np.float64)  # (N,)
    return float(np.mean((targets - 1 / (1 + np.exp(-logits))) ** 2))


def ranking_objective(P, Q, W, users, items, targets, weights, settings, features=None):
    """(R): what pmf.fit_ranking minimises, from its results and its arguments."""
    s, features = settings, np.zeros((len(Q), 0)) if features is None else features
    low = targets < s.least  # (N,) these count as missing ones
    targets, weights = np.where(low, 0, targets), np.where(low, s.missing, weights)
    n_u, n_i = np.bincount(users, minlength=len(P)), np.bincount(items, minlength=len(Q))
    warm_u, warm_i = n_u > 0, n_i > 0  # (U,), (I,) those in the sums
    a, b = n_u + s.missing * warm_i.sum(), n_i + s.missing * warm_u.sum()  # (U,), (I,)
    a = s.reg * (a / a[warm_u].mean()) ** s.power * warm_u  # (U,)
    b = s.reg * (b / b[warm_i].mean()) ** s.power * warm_i  # (I,)
    p, q = P[warm_u], Q[warm_i]
    logits = np.einsum("nk,nk->n", P[users], Q[items])  # (N,)
    everywhere = np.sum((p.T @ p) * (q.T @ q))  # sum over all (u, i) of (p_u.q_i)^2
    fitted = np.sum(weights * (targets - logits) ** 2)
    fitted += s.missing * (everywhere - np.sum(logits**2))
    fitted += a @ np.sum(P**2, axis=1)
    if features.shape[1] == 0 or s.text == 0:
        return fitted + b @ np.sum(Q**2, axis=1)
    rest = np.sum((Q - features @ W) ** 2, axis=1)  # (I,)
    return fitted + b @ rest / (1 - s.text) + s.reg * np.sum(W**2) / s.text


def centred(embeddings, known):
    """Embeddings (I, D) minus the mean of the `known` (mask or ids), each of length 1 again.

    Raw ones all point the same way: their cosines mostly measure what all texts share.
    """
    moved = embeddings.astype(np.float64) - embeddings[known].mean(axis=0, dtype=np.float64)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)  # (I, D)


class Content(NamedTuple):
    """What the content scores of all users and items are computed from."""

    profiles: np.ndarray  # (U, D)
    items: np.ndarray  # (I, D)

    def scores(self, users):
        return self.profiles[users] @ self.items.T  # (B, I)


def report_content(task, embeddings):
    """cos(E_u, E_i) of Eq. (1): a Content."""
    liked = task.ratings >= task.liked  # (N,)
    users, items = task.users[liked], task.items[liked]
    return Content(fuse.centroids(users, items, embeddings, task.n_users), embeddings)


def standardise(scores, among):
    """Each row moved and scaled so that its items `among` (bool, (B, I)) have mean 0 and sd 1.

    A row without differences is 0 throughout: it has no say in a sum.
    """
    count = np.maximum(among.sum(axis=1, keepdims=True), 1)  # (B, 1)
    moved = scores - np.sum(scores, axis=1, where=among, keepdims=True) / count  # (B, I)
    sd = np.sqrt(np.sum(moved**2, axis=1, where=among, keepdims=True) / count)  # (B, 1)
    flat = sd <= 1e-12  # (B, 1)
    return np.where(flat, 0.0, moved / np.where(flat, 1, sd))


def z_fusion(cf, content, candidates, alpha):
    """alpha z(cf) + (1 - alpha) z(content), z the standard score over the candidates; (B, I)."""
    return alpha * standardise(cf, candidates) + (1 - alpha) * standardise(content, candidates)


def peak_memory():
    """In bytes, without the parent's, which getrusage would count; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def z_scores(users, U, V, content, seen, alpha):
    """z_fusion of u_u . v_i and a Content over what was not seen: a scorer, (B, I)."""
    candidates = fuse.candidates_of(seen, users, len(V))  # (B, I)
    return z_fusion(fuse.mf_scores(users, U, V), content.scores(users), candidates, alpha)
