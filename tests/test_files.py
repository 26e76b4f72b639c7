"""The second half of metrics.py: settings, errors, and files that are whole and ours."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.numpy

import metrics
from metrics import BadInput

ROOT = Path(__file__).parents[1]


def write(path, text, folder=False):
    with metrics.whole(path, folder) as new:
        (new / "a" if folder else new).write_text(text)


# Settings


@dataclass(frozen=True)
class Options:
    count: int  # how many
    share: float = 0.5  # a part, 0.5 is 50 %
    kind: Literal["a", "b"] = "a"  # which
    names: tuple[str, ...] = ()  # some
    loud: bool = False  # say more


def options(line):
    return metrics.parse(Options, "About.", line.split(), count=1, share=(0, 1))


def test_settings_come_from_the_command_line_or_their_defaults():
    assert options("--count 1") == Options(1)
    line = "--count 7 --share 1 --kind b --names x y --loud"
    assert options(line) == Options(7, 1.0, "b", ("x", "y"), True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--count 0", "--count 0: it must be at least 1"),
        ("--count 1 --share 1.5", "--share 1.5: it must be at least 0 and at most 1"),
        ("--count 1 --share nan", "--share nan: it must be"),
        ("", "required: --count"),
        ("--count x", "invalid int"),
        ("--count 1 --kind c", "from .*a.*b"),
    ],
)
def test_settings_out_of_bounds_or_of_a_wrong_kind_are_clear_errors(line, message):
    with pytest.raises(BadInput, match=message):
        options(line)


def test_help_shows_comments_and_defaults(capsys):
    with pytest.raises(SystemExit):
        options("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "About." in shown and "a part, 0.5 is 50 % (default: 0.5)" in shown


def test_help_without_docstrings():
    """python -OO leaves none."""
    for script, shown in (("pmf.py", "--epochs"), ("main.py", "recommend")):
        line = [sys.executable, "-OO", script, "--help"]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and shown in done.stdout and done.stderr == ""


def test_seeds_are_those_that_numpy_takes():
    least, most = metrics.SEEDS
    for seed in (least, most):
        np.random.RandomState(seed)
    for seed in (least - 1, most + 1):
        with pytest.raises(ValueError):
            np.random.RandomState(seed)


# What every script shares


def left(main, capsys):
    """(status, lines of error) with which run() leaves."""
    with pytest.raises(SystemExit) as leave:
        metrics.run(main)
    return leave.value.code, capsys.readouterr().err.splitlines()


def raising(error):
    def main():
        raise error

    return main


def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["some/script.py"])
    bad = raising(BadInput("one\n  two"))
    assert left(bad, capsys) == (2, ["script.py: error: one two"])
    assert left(raising(OSError("no disk")), capsys) == (2, ["script.py: error: no disk"])
    status, lines = left(raising(KeyboardInterrupt), capsys)
    assert status == 130 and "interrupted" in lines[-1]
    for fault in (ZeroDivisionError, RuntimeError):  # a fault of ours is no bad input
        with pytest.raises(fault):
            metrics.run(raising(fault))


def test_memory_that_runs_out_is_one_line(monkeypatch, capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch has it."""

    monkeypatch.setattr("sys.argv", ["some/script.py"])
    told = "can't allocate memory: you tried"  # torch's words on a CPU
    for error in (OutOfMemoryError("CUDA out of\n memory"), MemoryError("x"), RuntimeError(told)):
        status, lines = left(raising(error), capsys)
        assert status == 2 and len(lines) == 1
        assert lines[0].startswith(f"script.py: error: too little memory ({str(error)[:8]}")


KEPT = [sys.executable, "kept.py"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a script, and the machine code that Numba kept of its function."""
    pytest.importorskip("numba")
    folder = tmp_path_factory.mktemp("kept")
    for name in ("metrics.py", "pmf.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "kept.py").write_text(
        "import metrics, pmf\n"
        "def next_of(x): return x + 1\n"
        "f = pmf.compiled(next_of)\n"
        "metrics.run(lambda: print(f(1.0)))\n"
    )
    subprocess.run(KEPT, cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("size", [0, 40, 0.5])
def test_a_cut_file_of_numbas_is_one_line_that_says_what_to_delete(kept, tmp_path, ending, size):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    here = {"cwd": tmp_path, "capture_output": True, "text": True}
    (file,) = tmp_path.glob(f"__pycache__/kept*.{ending}")
    content = file.read_bytes()
    file.write_bytes(content[: size if size >= 1 else int(size * len(content))])
    done = subprocess.run(KEPT, **here)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "kept.py: error: machine code that Numba kept is damaged" in done.stderr
    assert done.stderr.endswith(f"; delete {tmp_path / '__pycache__'}\n")
    shutil.rmtree(tmp_path / "__pycache__")
    assert subprocess.run(KEPT, **here).stdout == "2.0\n"


def test_a_reader_that_has_enough_is_no_error():
    program = "import metrics; metrics.run(lambda: print('line\\n' * 100_000))"
    line = f'{sys.executable} -c "{program}" | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["line", "0"] and done.stderr == ""
    program = "import time, metrics; time.sleep(0.5); metrics.run(lambda: print('a line'))"
    line = f'{sys.executable} -c "{program}" | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["0"] and done.stderr == ""


def test_a_terminal_without_a_letter_shows_a_question_mark():
    line = [sys.executable, "-c", "import metrics; metrics.run(lambda: print('Am\u00e9lie'))"]
    plain = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=plain)
    assert done.returncode == 0 and done.stdout == "Am?lie\n"


def test_a_stage_says_what_it_does_and_what_it_gave(tmp_path, monkeypatch, capsys):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    with metrics.stage(tmp_path / "x", "PMF") as figure:
        assert capsys.readouterr().out == f"{tmp_path / 'x'}: PMF ...\n"
        figure("mse 0.03")
    assert capsys.readouterr().out == f"{tmp_path / 'x'}: done, mse 0.03, 2.5 s\n"
    with pytest.raises(BadInput, match="is no file"), metrics.stage(tmp_path, "PMF"):
        pytest.fail("the work has begun")


def test_where_stages_share_the_screen_progress_is_a_line_every_tenth(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setenv("SHARED_SCREEN", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with metrics.progress(40, "out/x", mininterval=0) as bar:
        for step in range(40):
            bar.set_postfix_str(f"loss {step}", refresh=False)
            bar.update()
    lines = capsys.readouterr().out.replace("\r", "").splitlines()
    tenths = [f"out/x: {10 * tenth} %  loss {4 * tenth - 1}" for tenth in range(1, 11)]
    assert [line for line in lines if line] == tenths
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)  # as in make | tee log
    with metrics.progress(10, "out/x", mininterval=0) as bar:
        bar.update(10)
    assert "out/x: 100 %" in capsys.readouterr().out
    with metrics.progress(0, "nothing", mininterval=0):
        pass
    assert capsys.readouterr().out.strip() == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("SHARED_SCREEN")
    with metrics.progress(2, "encoding", mininterval=0, miniters=1) as bar:
        bar.update(2)
    assert "encoding: 100%" in capsys.readouterr().out


def test_a_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe is there and is no file; name another path"):
        metrics.check_target(tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_is_never_followed(tmp_path, kind):
    """Whatever it leads to: a file beside it, one elsewhere, a folder, nothing yet."""
    real, link = tmp_path / "home/real", tmp_path / "out/table1.md"
    real.parent.mkdir()
    link.parent.mkdir()
    link.symlink_to(real)
    if kind == "file":
        real.write_text("mine")
    elif kind == "folder":
        real.mkdir()
    for folder in (False, True):
        with pytest.raises(
            BadInput, match=r"table1\.md is a symbolic link, which is never followed"
        ):
            write(link, "ours", folder=folder)
    assert link.is_symlink() and list(link.parent.iterdir()) == [link]
    assert kind != "file" or real.read_text() == "mine"


def test_a_folder_that_a_link_leads_to_may_be_written_into(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for text in ("one", "two"):
        write(tmp_path / "out/a", text)
        assert (tmp_path / "disk/a").read_text() == text


NAMES = ("results.json", "table1.md", "documents.txt", "notes.txt", "code.py", "a.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_only_what_we_wrote_and_nobody_changed_is_replaced(tmp_path, name):
    path = tmp_path / name
    for text in ("one", "two"):
        write(path, text)
        assert path.read_text() == text
    path.write_text("edited")
    with pytest.raises(BadInput, match=rf"{name} was not written .* has changed since; move it"):
        write(path, "three")
    assert path.read_text() == "edited"
    path.rename(tmp_path / "moved")  # as the message says
    write(path, "three")
    path.unlink()
    write(path, "four")  # what was deleted is made anew
    (tmp_path / "other").mkdir()
    mine = tmp_path / "other" / name
    mine.write_text("mine")
    with pytest.raises(BadInput, match="was not written by this command"):
        write(mine, "ours")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("damage", ["", "{", "3", "[1]", "[[]]", "\x00", "[" * 200_000])
def test_a_list_that_is_lost_or_damaged_makes_everything_somebody_elses(tmp_path, damage):
    write(tmp_path / "a", "one")
    (tmp_path / ".written/a").write_text(damage)
    with pytest.raises(BadInput, match="a was not written by this command"):
        write(tmp_path / "a", "two")
    (tmp_path / "a").rename(tmp_path / "b")
    write(tmp_path / "a", "two")
    write(tmp_path / "a", "three")
    assert (tmp_path / "a").read_text() == "three" and (tmp_path / "b").read_text() == "one"


def test_somebodys_safetensors_stay_and_ours_are_replaced(tmp_path):
    mine, ours = tmp_path / "model.safetensors", tmp_path / "ours.safetensors"
    mine.write_bytes(safetensors.numpy.save({"weight": np.ones(2)}))
    before = mine.read_bytes()
    with pytest.raises(BadInput, match="was not written by this command"):
        metrics.save(mine, {"a": np.ones(2)}, {})
    assert mine.read_bytes() == before
    for value in (1.0, 2.0):
        metrics.save(ours, {"a": np.array([value])}, {})
        assert metrics.load(ours)["a"] == value


def test_text_that_is_no_utf8_names_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\nb\n" + b"\xe9")
    with pytest.raises(BadInput, match=r"a\.txt:3: not UTF-8"):
        metrics.read_text(path)
    path.write_bytes(b"a\r\nb\xc3\xa9")
    assert metrics.read_text(path) == "a\r\nb\u00e9"


def test_json_is_read_whole_and_with_its_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "b": [2]}')
    assert metrics.read_json(path, "a", "b") == {"a": 1, "b": [2]}
    with pytest.raises(BadInput, match=r"a\.json has no 'c'"):
        metrics.read_json(path, "a", "c")
    path.write_text('["a"]')
    with pytest.raises(BadInput, match="has no 'a'"):
        metrics.read_json(path, "a")
    for odd in ("[" * 200_000, "9" * 5000, "{'a': 1}"):
        path.write_text(odd)
        with pytest.raises(
            BadInput, match=r"a\.json is not complete JSON .*; delete it and run make"
        ):
            metrics.read_json(path, "a")
    path.write_text('{"a": 1')
    with pytest.raises(BadInput, match=r"a\.json is not complete JSON"):
        metrics.read_json(path, "a")


def test_a_changed_record_of_ours_is_refused_and_what_has_no_checksum_is_read(tmp_path):
    path, record = tmp_path / "a.json", {"k": 4, "curve": [{"ndcg": 0.1}, (1, 2)], "text": None}
    made = metrics.with_checksum(record)
    assert made == record | {"sha256": made["sha256"]} == metrics.with_checksum(made)
    path.write_text(json.dumps(made, indent=1))
    assert metrics.read_json(path, "k", "sha256")["k"] == 4
    for old, new in (("4", "5"), ("0.1", "0.11"), ("curve", "curse"), (made["sha256"], "0")):
        path.write_text(json.dumps(made).replace(old, new, 1))
        with pytest.raises(BadInput, match=r"a\.json is damaged, or was changed; delete it"):
            metrics.read_json(path)
    path.write_text(json.dumps(record))
    assert metrics.read_json(path)["k"] == 4


def test_a_target_never_replaces_what_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis").touch()
    for path in (".", "..", "mine", tmp_path / "mine"):
        with pytest.raises(BadInput, match="is there and is no file"):
            metrics.check_target(path)
    with pytest.raises(BadInput, match="is there and is no folder"):
        metrics.check_target("mine/thesis", folder=True)
    for path in (".", "..", "mine"):
        with pytest.raises(BadInput, match="not written by this command"):
            metrics.check_target(path, folder=True)
    for path in ("mine/thesis/x", "mine/thesis/x/y"):
        with pytest.raises(BadInput, match="thesis is not a folder that can be written to"):
            metrics.check_target(path)
    metrics.check_target("new/folder/x")
    (tmp_path / "empty").mkdir()
    metrics.check_target("empty", folder=True)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(BadInput, match="can be written to"):
        metrics.check_target("new")


def fill(folder, *names):
    """A folder of files, written as ours."""
    with metrics.whole(folder, folder=True) as new:
        assert new.is_dir() and not list(new.iterdir())
        for name in names:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(name)


def test_a_folder_is_replaced_only_if_we_wrote_all_of_it(tmp_path):
    to = tmp_path / "deep" / "to"
    fill(to, "a", "sub/b")
    fill(to, "a")  # again, without sub
    assert [p.name for p in to.iterdir()] == ["a"]
    for name in ("c", "sub"):
        (to / name).mkdir()
        refusal = pytest.raises(BadInput, match=f"{name} was not written")
        with refusal, metrics.whole(to, folder=True):
            pytest.fail("the work has begun")
        (to / name).rmdir()
    late = pytest.raises(BadInput, match="late was not")
    with late, metrics.whole(to, folder=True):
        (to / "late").touch()  # came while the work went on
    assert sorted(p.name for p in to.iterdir()) == ["a", "late"]
    assert sorted(p.name for p in to.parent.iterdir()) == [".written", "to"]


def test_a_folder_of_ours_stays_ours_without_its_record_but_not_with_an_edited_one(tmp_path):
    """make deletes training.json when a run is interrupted, and a message may tell people to."""
    fill(tmp_path / "to", "training.json", "1_Pooling/config.json")
    (tmp_path / "to/training.json").unlink()
    fill(tmp_path / "to", "training.json", "1_Pooling/config.json")
    (tmp_path / "to/training.json").write_text("")
    with pytest.raises(BadInput, match=r"training\.json was not written .* has changed since"):
        fill(tmp_path / "to", "training.json")
    (tmp_path / "to/training.json").unlink()
    fill(tmp_path / "to", "training.json")


def test_what_is_written_has_the_modes_that_the_umask_leaves(tmp_path):
    before = os.umask(0o020)
    try:
        metrics.save(tmp_path / "a", {"a": np.zeros(1)}, {})
        with metrics.whole(tmp_path / "b", folder=True) as new:
            (new / "c.safetensors").touch(0o600)  # as the library makes its files
    finally:
        os.umask(before)
    paths = [tmp_path / name for name in ("a", "b", "b/c.safetensors")]
    modes = {path.name: path.stat().st_mode & 0o777 for path in paths}
    assert modes == {"a": 0o646, "b": 0o757, "c.safetensors": 0o646}


def test_saved_arrays_come_back_are_the_same_bytes_twice_and_know_their_inputs(tmp_path):
    source, path = tmp_path / "source.txt", tmp_path / "a.safetensors"
    source.write_text("one")
    arrays = {"b": np.arange(6).reshape(2, 3).T, "a": np.array([True, False])}
    metrics.save(path, arrays, {"seed": 1}, [source])
    first = path.read_bytes()
    metrics.save(path, arrays, {"seed": 1}, [source])
    assert path.read_bytes() == first
    assert np.array_equal(metrics.load(path, [source])["b"], arrays["b"])
    assert metrics.provenance(path)["settings"] == {"seed": 1}
    source.write_text("two")
    with pytest.raises(BadInput, match=r"was made with source.txt = "):
        metrics.load(path, [source])


def test_a_missing_or_cut_file_is_one_clear_error(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(BadInput, match="missing"):
        metrics.load(path)
    metrics.save(path, {"a": np.arange(1000)}, {})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadInput, match="damaged"):
        metrics.load(path)


def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path):
    """In an array of any kind, its shape or its name, in the settings, and in the checksum."""
    path = tmp_path / "a.safetensors"
    arrays = {"f": np.ones((4, 3), np.float32), "i": np.arange(5), "b": np.array([True, False])}
    metrics.save(path, arrays | {"scalar": np.array(4.0)}, {"seed": 42})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    assert metrics.load(path)["scalar"] == 4
    names = set(arrays) | {"scalar"}
    for place in [whole.index(b"seed") + len('seed\\": '), *rng.integers(len(whole), size=300)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = metrics.load(path)
        except BadInput as error:
            assert "damaged" in str(error)
        else:  # a blank of the header, say
            assert metrics.provenance(path)["settings"] == {"seed": 42}
            assert found.keys() == names
            assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def save_with(path, text):
    """A file whose metadata are this text."""
    path.write_bytes(safetensors.numpy.save({"a": np.ones(1)}, {"provenance": text}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        "{}",
        '{"settings": {}, "inputs": {}}',
        '{"settings": 3, "inputs": {}, "versions": {}}',
        "[" * 200_000,
        '{"settings": ' + '{"a": ' * 200_000,
        "9" * 5000,
    ],
)
def test_odd_metadata_are_one_line(tmp_path, text):
    path = tmp_path / "a.safetensors"
    save_with(path, text)
    with pytest.raises(
        BadInput, match=r"a\.safetensors is damaged .*; delete it and run make again"
    ):
        metrics.provenance(path)
    with pytest.raises(BadInput, match="is damaged"):
        metrics.load(path)


def test_a_file_without_a_checksum_is_made_again(tmp_path):
    path = tmp_path / "a.safetensors"
    save_with(path, '{"settings": {"k": 1}, "inputs": {}, "versions": {}}')
    assert metrics.provenance(path)["settings"] == {"k": 1}
    with pytest.raises(BadInput, match="its checksum is another; delete it and run make again"):
        metrics.load(path)


def test_what_was_made_otherwise_or_lacks_an_array_is_refused(tmp_path):
    path, source = tmp_path / "a.safetensors", tmp_path / "source"
    source.touch()
    metrics.save(path, {"a": np.zeros(2)}, {"fit_part": True, "out": tmp_path}, [source])
    assert list(metrics.load(path, [source], ["a"], fit_part=True)) == ["a"]
    with pytest.raises(BadInput, match="fit_part = True, not False"):
        metrics.load(path, fit_part=False)
    with pytest.raises(BadInput, match="holds a, but no b"):
        metrics.load(path, names=["a", "b"])
    made = metrics.provenance(path)
    assert made["settings"] == {"fit_part": True}  # paths are left out
    assert made["inputs"] == {"source": metrics.sha256(source)} and "numpy" in made["versions"]


def test_what_is_not_finite_is_refused_with_its_row(tmp_path):
    path, array = tmp_path / "a.safetensors", np.zeros((4, 3))
    for value in (np.nan, np.inf, -np.inf):
        array[2, 1] = value
        metrics.save(path, {"whole": np.arange(3), "e": array}, {})
        with pytest.raises(BadInput, match="row 2 of e is not finite"):
            metrics.load(path)


def test_embeddings_belong_to_the_ratings_that_their_texts_were_written_with(tmp_path):
    texts, other, ratings = (tmp_path / name for name in ("t.txt", "o.txt", "r.safetensors"))
    texts.write_text("a")
    other.write_text("b")
    digest = metrics.sha256(texts)
    metrics.save(ratings, {"a": np.zeros(1)}, {"texts": {"t.txt": digest}})
    path = tmp_path / "e.safetensors"
    unit = np.array([[0.6, 0.8]]) * (1 + 1e-7)  # as an encoder leaves it: not touched
    metrics.save(path, {"embeddings": unit}, {}, [texts])
    np.testing.assert_array_equal(metrics.load_embeddings(path, ratings), unit)
    metrics.save(path, {"embeddings": np.array([[3.0, 4], [0, 0]])}, {}, [texts])
    assert metrics.load_embeddings(path, ratings).tolist() == [[0.6, 0.8], [0, 0]]
    metrics.check_texts(texts, [digest], ratings)
    metrics.save(path, {"embeddings": np.ones((1, 2))}, {}, [other])
    with pytest.raises(BadInput, match=r"e\.safetensors belongs to another data set"):
        metrics.load_embeddings(path, ratings)
    metrics.save(path, {"factors": np.ones((1, 2))}, {}, [texts])
    with pytest.raises(BadInput, match="no embeddings"):
        metrics.load_embeddings(path, ratings)


def left_behind(tmp_path):
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir())


@pytest.mark.parametrize("folder", [False, True])
def test_nothing_half_written_is_left_behind(tmp_path, folder):
    with pytest.raises(RuntimeError), metrics.whole(tmp_path / "x", folder) as temporary:
        inner = temporary / "part" if folder else temporary
        inner.write_text("half")
        raise RuntimeError
    assert left_behind(tmp_path) == []


WRITER = """
import os, signal, sys, time, metrics
def main():
    with metrics.whole(sys.argv[1], folder=True) as new:
        (new / "a").write_text("new")
        {what}
metrics.run(main)
"""


def write_and(what, path):
    """A process that writes a folder and then does something else; (its status, its errors)."""
    line = [sys.executable, "-c", WRITER.format(what=what), str(path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stderr


def test_an_interrupted_write_leaves_no_remains(tmp_path):
    status, error = write_and("os.kill(os.getpid(), signal.SIGINT)", tmp_path / "x")
    assert status == 130 and "Traceback" not in error
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_remains_of_a_killed_write_go_when_it_is_made_again(tmp_path, name):
    """And no others: x.y and y are other files."""
    number = getattr(signal, name)
    for path in ("x", "x.y", "y"):
        status, error = write_and(f"os.kill(os.getpid(), {number})", tmp_path / path)
        assert (status, error) == (-number, "")
    assert len(left_behind(tmp_path)) == 3
    write(tmp_path / "x", "1")
    left = left_behind(tmp_path)
    assert len(left) == 4 and left[0] == ".written/x" and left[-1] == "x"
    assert [path.split("/")[1].rsplit(".", 2)[0] for path in left[1:3]] == ["x.y", "y"]
    metrics.remove_written(tmp_path)
    assert left_behind(tmp_path) == []


def test_two_runs_that_write_one_file_do_not_remove_each_others(tmp_path):
    with metrics.whole(tmp_path / "x") as one:
        one.write_text("1")
        write(tmp_path / "x", "2")
        (tmp_path / ".written/notes.of.mine").mkdir()  # of nobody we know
    assert left_behind(tmp_path) == [".written/x", "x"] and (tmp_path / "x").read_text() == "1"


def test_an_interrupt_between_the_two_renames_of_a_folder_loses_nothing(tmp_path, monkeypatch):
    fill(tmp_path / "to", "a", "old")
    replace = os.replace

    def interrupted(source, target):
        if target == tmp_path / "to":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "to", "a")
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == ["a", "old"]
    fill(tmp_path / "to", "a", "old")  # still ours
    assert left_behind(tmp_path) == [".written/to", "to/a", "to/old"]
    kill = "os.replace = lambda *a: os.kill(os.getpid(), 9) if new.samefile(a[0]) else replace(*a)"
    assert write_and(f"replace = os.replace; {kill}", tmp_path / "to")[0] == -signal.SIGKILL
    fill(tmp_path / "to", "a")  # killed just then, it is made again
    assert left_behind(tmp_path) == [".written/to", "to/a"]


# What make clean deletes


def test_what_we_wrote_is_removed_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    for name in ("table1.md", "results.json", "runs/a.run", "split-1/table1.md"):
        write(out / name, name)
    fill(out / "tuned", "model.safetensors", "1_Pooling/config.json")
    fill(out / "mixed", "model.safetensors")
    metrics.save(out / "minilm.safetensors", {"a": np.zeros(2)}, {})
    assert write_and("os.kill(os.getpid(), signal.SIGKILL)", out / "x")[0] < 0
    write(tmp_path / "beside", "ours, but elsewhere")
    (out / "empty").mkdir()
    theirs = {"table3.md", "documents-old.txt", "runs/mine.run", "mixed/notes.txt", "results.json"}
    for name in theirs:
        (out / name).write_text("mine")  # one of them was ours and is changed
    metrics.remove_written(out)
    assert set(left_behind(out)) == theirs and (out / "empty").is_dir()
    assert not (out / "tuned").exists() and not (out / "split-1").exists()
    assert (tmp_path / "beside").exists()
    metrics.remove_written(out)  # nothing more
    assert set(left_behind(out)) == theirs


def test_a_folder_that_is_all_ours_goes_and_a_missing_one_is_no_error(tmp_path):
    write(tmp_path / "out/deep/a", "x")
    for _ in range(2):
        metrics.remove_written(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_a_link_among_ours_is_removed_as_a_link(tmp_path):
    """Somebody moved a file of ours to another disk and left a link: what it leads to stays."""
    write(tmp_path / "out/a", "x")
    (tmp_path / "out/a").rename(tmp_path / "a")
    (tmp_path / "out/a").symlink_to(tmp_path / "a")
    metrics.remove_written(tmp_path / "out")
    assert (tmp_path / "a").read_text() == "x"
