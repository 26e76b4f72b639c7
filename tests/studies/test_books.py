"""books.py: what `make all DATA=books` is tried on can be prepared, and is the same each time."""

import books
import numpy as np
import pytest

import main
import metrics


def test_the_books_are_own_data(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("books", "again")]
    for folder in folders:
        monkeypatch.setattr(books.sys, "argv", ["books.py", "--to", str(folder)])
        books.main()
    for name in ("ratings.csv", "movies.csv"):
        one, two = ((folder / name).read_bytes() for folder in folders)
        assert one == two
    main.prepare(["--data", str(folders[0]), "--out", str(tmp_path / "out")])
    files = main.Artefacts(tmp_path / "out")
    assert files.own and len(files.ids("user_ids")) == 500 and len(files.titles()) == 200
    assert (files.task.ratings.min(), files.task.liked, files.task.highest) == (1, 8, 10)
    assert np.bincount(files.task.users).min() >= 24  # four fifths of 30


def test_a_folder_that_is_there_stays(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr(books.sys, "argv", ["books.py", "--to", str(tmp_path)])
    with pytest.raises(metrics.BadInput, match="is there already"):
        books.main()
