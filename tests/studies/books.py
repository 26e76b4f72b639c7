"""Invented ratings of books, to try own data on: ids are strings, the scale is 1 to 10.

500 readers, each of whom likes two of five kinds, rate 30 to 60 of 200 books; a book of a kind that
they like is drawn three times as often and rated 3 higher. Its title and genre name its kind.

Gives:    books/ratings.csv, 22,000 ratings or so, and books/movies.csv: the README's example.
Command:  python tests/studies/books.py [--to books]; then: make all DATA=books
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

import metrics
from metrics import BadInput

KINDS = ("Crime", "Love", "Travel", "War", "Science")
READERS, BOOKS = 500, 200


@dataclass(frozen=True)
class Settings:
    to: Path = Path("books")  # folder to make
    seed: int = 0


def ratings(seed):
    """Rows (reader, book, rating), the readers in order."""
    rng = np.random.default_rng(seed)
    kind = np.arange(BOOKS) % len(KINDS)  # (I,)
    quality, popularity = rng.normal(size=BOOKS), rng.lognormal(size=BOOKS)  # (I,)
    for reader in range(READERS):
        liked = np.isin(kind, rng.permutation(len(KINDS))[:2])  # (I,)
        weights = popularity * np.where(liked, 3, 1)  # (I,)
        n = rng.integers(30, 61)
        books = rng.choice(BOOKS, n, replace=False, p=weights / weights.sum())  # (n,)
        scores = 4.5 + 3 * liked[books] + quality[books] + rng.normal(size=n)  # (n,)
        for book, score in zip(books, np.clip(scores.round(), 1, 10).astype(int), strict=True):
            yield f"reader-{reader}", f"book-{book}", score


def main():
    s = metrics.parse(Settings, __doc__, seed=metrics.SEEDS)
    if s.to.exists():
        raise BadInput(f"{s.to} is there already; name another folder")
    titles = [
        (f"book-{n}", f"A {KINDS[n % len(KINDS)]} Story {n}", KINDS[n % len(KINDS)])
        for n in range(BOOKS)
    ]
    with metrics.whole(s.to, folder=True) as folder:
        for name, head, rows in (
            ("movies.csv", "itemId,title,genres", titles),
            ("ratings.csv", "userId,itemId,rating", ratings(s.seed)),
        ):
            with open(folder / name, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([head.split(","), *rows])
    print(f"{s.to}: {READERS} readers, {BOOKS} books")


if __name__ == "__main__":
    metrics.run(main)
