"""The second half of metrics.py: settings, errors, and files that are whole and ours."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.numpy

import metrics

ROOT = Path(__file__).parents[1]

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
    with pytest.raises(metrics.BadInput, match=message):
        options(line)


def test_help_shows_comments_and_defaults(capsys):
    with pytest.raises(SystemExit):
        options("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "About." in shown and "a part, 0.5 is 50 % (default: 0.5)" in shown


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
    bad = raising(metrics.BadInput("one\n  two"))
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
    with pytest.raises(metrics.BadInput, match="is a folder"), metrics.stage(tmp_path, "PMF"):
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


def test_a_device_is_never_replaced_a_link_is_written_through(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(metrics.BadInput, match="pipe is a device, which is never replaced"):
        metrics.check_target(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("one", "two"):
        with metrics.whole(tmp_path / "link") as new:
            new.write_text(text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == text


def test_somebodys_safetensors_stay_and_ours_are_replaced(tmp_path):
    mine, ours = tmp_path / "model.safetensors", tmp_path / "ours.safetensors"
    mine.write_bytes(safetensors.numpy.save({"weight": np.ones(2)}))
    before = mine.read_bytes()
    with pytest.raises(metrics.BadInput, match="stays, for save"):
        metrics.save(mine, {"a": np.ones(2)}, {})
    assert mine.read_bytes() == before
    for value in (1.0, 2.0):
        metrics.save(ours, {"a": np.array([value])}, {})
        assert metrics.load(ours)["a"] == value


def test_a_read_only_file_stays(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "mine")
    with pytest.raises(metrics.BadInput, match="mine is read-only"):
        metrics.check_target(tmp_path / "mine")


def test_text_that_is_no_utf8_names_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\nb\n" + b"\xe9")
    with pytest.raises(metrics.BadInput, match=r"a\.txt:3: not UTF-8"):
        metrics.read_text(path)
    path.write_bytes(b"a\r\nb\xc3\xa9")
    assert metrics.read_text(path) == "a\r\nb\u00e9"


def test_json_is_read_whole_and_with_its_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "b": [2]}')
    assert metrics.read_json(path, "a", "b") == {"a": 1, "b": [2]}
    with pytest.raises(metrics.BadInput, match=r"a\.json has no 'c'"):
        metrics.read_json(path, "a", "c")
    path.write_text('["a"]')
    with pytest.raises(metrics.BadInput, match="has no 'a'"):
        metrics.read_json(path, "a")
    path.write_text('{"a": 1')
    with pytest.raises(metrics.BadInput, match=r"a\.json is not complete JSON"):
        metrics.read_json(path, "a")


def test_a_target_never_replaces_what_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis").touch()
    nothing = lambda folder: []  # noqa: E731
    for path in (".", "..", "mine", tmp_path / "mine"):
        with pytest.raises(metrics.BadInput, match="is a folder"):
            metrics.check_target(path)
    with pytest.raises(metrics.BadInput, match="is a file"):
        metrics.check_target("mine/thesis", nothing)
    for path in (".", "..", "mine"):
        with pytest.raises(metrics.BadInput, match="not written by this command"):
            metrics.check_target(path, nothing)
    for path in ("mine/thesis/x", "mine/thesis/x/y"):
        with pytest.raises(metrics.BadInput, match="thesis is not a folder that can be written to"):
            metrics.check_target(path)
    metrics.check_target("mine/thesis")  # a file may replace a file
    metrics.check_target("mine", lambda folder: ["thesis"])
    metrics.check_target("new/folder/x")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(metrics.BadInput, match="can be written to"):
        metrics.check_target("new")


def test_a_folder_is_replaced_only_if_we_wrote_all_of_it(tmp_path):
    wrote = lambda folder: ["a", "sub/b"]  # noqa: E731
    to = tmp_path / "deep" / "to"
    with metrics.whole(to, wrote) as new:
        assert new.is_dir() and not list(new.iterdir())
        (new / "sub").mkdir()
        (new / "a").write_text("1")
        (new / "sub/b").write_text("1")
    with metrics.whole(to, wrote) as new:  # again, without sub
        (new / "a").write_text("2")
    assert [p.name for p in to.iterdir()] == ["a"] and (to / "a").read_text() == "2"
    for name in ("c", "sub"):
        (to / name).mkdir()
        refusal = pytest.raises(metrics.BadInput, match=f"{name} was not written")
        with refusal, metrics.whole(to, lambda folder: ["a"]):
            pytest.fail("the work has begun")
        (to / name).rmdir()
    with pytest.raises(metrics.BadInput, match="late was not"), metrics.whole(to, wrote) as new:
        (to / "late").touch()  # came while the work went on
    assert sorted(p.name for p in to.iterdir()) == ["a", "late"]
    assert sorted(p.name for p in to.parent.iterdir()) == ["to"]


def test_what_is_written_has_the_modes_that_the_umask_leaves(tmp_path):
    before = os.umask(0o020)
    try:
        metrics.save(tmp_path / "a", {"a": np.zeros(1)}, {})
        with metrics.whole(tmp_path / "b", lambda folder: []) as new:
            (new / "c.safetensors").touch(0o600)  # as the library makes its files
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
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
    with pytest.raises(metrics.BadInput, match="not made from"):
        metrics.load(path, [source])


def test_a_missing_or_cut_file_is_one_clear_error(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(metrics.BadInput, match="missing"):
        metrics.load(path)
    metrics.save(path, {"a": np.arange(1000)}, {})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(metrics.BadInput, match="damaged"):
        metrics.load(path)


def test_what_was_made_otherwise_or_lacks_an_array_is_refused(tmp_path):
    path, source = tmp_path / "a.safetensors", tmp_path / "source"
    source.touch()
    metrics.save(path, {"a": np.zeros(2)}, {"fit_part": True, "out": tmp_path}, [source])
    assert list(metrics.load(path, [source], ["a"], fit_part=True)) == ["a"]
    with pytest.raises(metrics.BadInput, match="fit_part = True, not False"):
        metrics.load(path, fit_part=False)
    with pytest.raises(metrics.BadInput, match="holds a, but no b"):
        metrics.load(path, names=["a", "b"])
    made = metrics.provenance(path)
    assert made["settings"] == {"fit_part": True}  # paths are left out
    assert made["inputs"] == {"source": metrics.sha256(source)} and "numpy" in made["versions"]


def test_what_is_not_finite_is_refused_with_its_row(tmp_path):
    path, array = tmp_path / "a.safetensors", np.zeros((4, 3))
    for value in (np.nan, np.inf, -np.inf):
        array[2, 1] = value
        metrics.save(path, {"whole": np.arange(3), "e": array}, {})
        with pytest.raises(metrics.BadInput, match="row 2 of e is not finite"):
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
    with pytest.raises(metrics.BadInput, match=r"e\.safetensors belongs to another data set"):
        metrics.load_embeddings(path, ratings)
    metrics.save(path, {"factors": np.ones((1, 2))}, {}, [texts])
    with pytest.raises(metrics.BadInput, match="no embeddings"):
        metrics.load_embeddings(path, ratings)


@pytest.mark.parametrize("wrote", [None, lambda folder: []])
def test_nothing_half_written_is_left_behind(tmp_path, wrote):
    with pytest.raises(RuntimeError), metrics.whole(tmp_path / "x", wrote) as temporary:
        inner = temporary / "part" if wrote else temporary
        inner.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
