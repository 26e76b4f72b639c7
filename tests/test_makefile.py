"""The Makefile as the map: what an edit rebuilds, what it leaves, what `make clean` may delete.

A stub in the place of .venv/bin/python writes down each command and touches what it would make.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import metrics

ROOT = Path(__file__).parents[1]
SCRIPTS = ("pmf.py", "encode.py", "contrastive.py", "fuse.py", "metrics.py", "main.py")
TEXTS = ("documents.txt", "documents-report.txt", "documents-no-leak.txt", "documents-no-tags.txt")
STUB = f"""#!/bin/sh
case "$1" in -c) exec {sys.executable} "$@";; esac
echo "$*" >> log
out=$(echo "$*" | sed -n 's/.*--out \\([^ ]*\\).*/\\1/p')
case "$*" in
*prepare*) cd "$out"; seed=$(echo "$*" | sed 's/.*--seed \\([0-9]*\\).*/\\1/')
  for f in movies.csv {" ".join(TEXTS)}; do test -e $f || echo $f > $f; done
  echo $seed | cmp -s - ratings.safetensors || echo $seed > ratings.safetensors ;;
*contrastive*|*batch_softmax*) mkdir -p "$out"; touch "$out/training.json" ;;
*fetch*) touch data/ml-latest-small/ratings.csv ;;
*evaluate*) for f in table1.md figure1.svg results.json; do
    mkdir -p "$out/.written"; touch "$out/.written/$f" "$out/$f"; done ;;
*) touch "$out" ;;
esac
"""


def checkout(folder):
    """The folder, with the project, data, weights and a stub of Python; all is as old as 2001."""
    for name in ("Makefile", "requirements.txt", *SCRIPTS):
        shutil.copy(ROOT / name, folder / name)
    for name in (
        ".venv/.done",
        "data/minilm/model.safetensors",
        "data/mpnet/model.safetensors",
        "data/ml-latest-small/ratings.csv",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    python = folder / ".venv/bin/python"
    python.parent.mkdir()
    python.write_text(STUB)
    python.chmod(0o755)
    for path in folder.rglob("*"):
        os.utime(path, (10**9, 10**9))
    return folder


@pytest.fixture
def folder(tmp_path):
    return checkout(tmp_path)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    make(folder, "all")
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """A checkout in which `make all` has been run."""
    return shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)


# A make that runs these tests hands its flags and settings on by their names: not to those here.
PLAIN = {"PATH": os.environ["PATH"]}


def make(folder, *arguments):
    """The commands that make runs, each as "script what-it-makes"."""
    (folder / "log").write_text("")
    done = subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, env=PLAIN
    )
    if done.returncode:
        return done.stderr
    found = set()
    for line in (folder / "log").read_text().splitlines():
        words = line.split()
        kind = words[1] if words[0] == "main.py" else words[0]
        place = words.index("--out" if "--out" in words else "--to")
        found.add(f"{kind} {words[place + 1]}")
    return found


def edit(path):
    os.utime(path, (time.time() + 5, time.time() + 5))


def test_make_all_makes_every_stage_once_and_then_nothing(folder):
    made = make(folder, "all")
    assert {"prepare out", "pmf.py out/pmf.safetensors", "evaluate out"} <= made
    assert "contrastive.py out/minilm-tuned-report" in made and len(made) == 19
    assert make(folder, "all") == set()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("fuse.py", {"evaluate"}),
        ("main.py", {"prepare", "evaluate"}),
        ("metrics.py", {"prepare", "evaluate"}),
        ("encode.py", {"contrastive.py", "encode.py", "pmf.py", "evaluate"}),
        ("pmf.py", {"pmf.py", "evaluate"}),
        ("contrastive.py", {"contrastive.py", "encode.py", "evaluate"}),
        ("out/documents.txt", {"contrastive.py", "encode.py", "pmf.py", "evaluate"}),
        ("out/ratings.safetensors", {"contrastive.py", "encode.py", "pmf.py", "evaluate"}),
        ("data/minilm/model.safetensors", {"contrastive.py", "encode.py", "pmf.py", "evaluate"}),
    ],
)
def test_an_edit_rebuilds_what_depends_on_it_and_nothing_else(finished, name, kinds):
    edit(finished / name)
    assert {line.split()[0] for line in make(finished, "all")} == kinds


def test_a_deleted_document_is_made_again(finished):
    (finished / "out/documents-report.txt").unlink()
    made = make(finished, "all")
    assert "prepare out" in made and "contrastive.py out/minilm-tuned-report" in made
    assert "contrastive.py out/minilm-tuned" not in made


def test_another_seed_or_k_rebuilds(finished):
    made = make(finished, "all", "SEED=7")
    assert "prepare out" in made and "contrastive.py out/minilm-tuned" in made
    assert make(finished, "all", "SEED=7", "K=50") == {
        "pmf.py out/pmf.safetensors",
        "pmf.py out/pmf-fit.safetensors",
        "evaluate out",
    }


def test_a_quick_run_searches_nothing_and_says_that_it_is_one(folder):
    made, log = make(folder, "quick"), (folder / "log").read_text()
    assert made == {"prepare out-quick", "evaluate out-quick"} | {
        "contrastive.py out-quick/minilm-tuned",
        *(f"encode.py out-quick/{name}.safetensors" for name in ("minilm", "minilm-tuned")),
        *(f"pmf.py out-quick/{name}.safetensors" for name in ("pmf", "pmf-all")),
    }
    assert "--max-steps 20" in log and "evaluate --out out-quick --seed 42 --quick" in log
    assert make(folder, "quick", "OURS=--k 64") == {"pmf.py out-quick/pmf-all.safetensors"}
    assert "--seed 42 --k 64 --embeddings" in (folder / "log").read_text()


def test_gpus_share_encoding_and_tuning(folder):
    """torchrun stands where the stub of Python does; its commands differ from the usual ones."""
    shutil.copy(folder / ".venv/bin/python", folder / ".venv/bin/torchrun")
    make(folder, "all", "GPUS=3")
    for line in (folder / "log").read_text().splitlines():
        shared = "encode.py" in line or "contrastive.py" in line
        assert line.startswith("--standalone --nproc-per-node 3 ") == shared
        assert (" --budget 16384 " in line) == ("encode.py" in line)


def test_make_mpnet_adds_its_rows_and_they_are_kept_up_to_date(folder):
    """What `make all` finds of MPNet it keeps up to date, and with it the factors of `ours`."""
    plain = make(folder, "all")
    made = make(folder, "mpnet")
    kinds = ("", "-nf4", "-nf4-lora", "-report", "-nf4-report", "-nf4-lora-report", "-no-leak")
    assert made == {f"encode.py out/mpnet{kind}.safetensors" for kind in kinds} | {
        "contrastive.py out/mpnet-nf4-lora",
        "contrastive.py out/mpnet-nf4-lora-report",
        "pmf.py out/pmf-ours-mpnet.safetensors",
        "evaluate out",
    }
    assert make(folder, "mpnet") == make(folder, "all") == set()
    edit(folder / "data/mpnet/model.safetensors")
    assert make(folder, "all") == made and made & plain == {"evaluate out"}


def test_make_seeds_tunes_with_the_next_two_seeds_on_the_same_split(folder):
    """What `make all` shows has one seed: it keeps the LoRA rows up to date, not other seeds'."""
    plain, study = make(folder, "all"), {"tests/studies/seeds.py out"}
    made, log = make(folder, "seeds"), (folder / "log").read_text()
    rows = [
        f"minilm-{kind}-{n}" for kind in ("tuned", "tuned-report", "nf4-lora-report") for n in "23"
    ]
    assert {line for line in made if "contrastive" in line} == {
        f"contrastive.py out/{row}" for row in [*rows, "minilm-nf4-lora"]
    }
    assert f"encode.py out/{rows[-1]}.safetensors" in made and len(made) == 7 + 8 + 2
    assert study < made and "prepare out" not in made
    for row in rows:
        recipe, n = "report" if "report" in row else "notebook", int(row[-1])
        line = next(line for line in log.splitlines() if f"--out out/{row} " in line)
        words = line.split()
        assert words[words.index("--seed") + 1] == str(42 + n - 1)
        assert words[words.index("--recipe") + 1] == recipe
        assert ("--nf4 --lora --lr 2e-4" in line) == ("nf4" in row)
    assert make(folder, "seeds") == study and make(folder, "all") == set()
    make(folder, "seeds", "mpnet")
    assert (folder / "log").read_text().count("evaluate") == 1  # one make, not one for each
    edit(folder / "contrastive.py")
    again = {line for line in make(folder, "all") if "contrastive" in line and "mpnet" not in line}
    kept = plain | {"contrastive.py out/minilm-nf4-lora"}
    assert again == {line for line in kept if "contrastive" in line}


def test_the_encoder_of_make_study_is_tuned_by_its_own_script(folder):
    script = folder / "tests/studies/batch_softmax.py"
    script.parent.mkdir(parents=True)
    script.touch()
    encoder, made = "out/minilm-ours.safetensors", "tests/studies/batch_softmax.py out/minilm-ours"
    assert {made, f"encode.py {encoder}"} <= make(folder, encoder)
    assert make(folder, encoder) == set()
    edit(script)
    assert make(folder, encoder) == {made, f"encode.py {encoder}"}


def test_make_qwen_asks_first_and_makes_the_base_rows_alone_where_no_gpu_is(finished):
    base = {f"encode.py out/qwen3-4b{kind}.safetensors" for kind in ("", "-report")}
    tuned = {f"encode.py out/qwen3-4b-tuned{kind}.safetensors" for kind in ("", "-report")}
    tuned |= {f"contrastive.py out/qwen3-4b-tuned{kind}" for kind in ("", "-report")}
    asked = {"tests/helpers/check_machine.py out"}
    assert make(finished, "qwen", "CPU=1") == asked | base | {"evaluate out"}
    first = (finished / "log").read_text().splitlines()[0]
    assert first.startswith("tests/helpers/check_machine.py --encode-only --ratings out/")
    assert make(finished, "qwen") == asked | tuned | {"evaluate out"}
    first = (finished / "log").read_text().splitlines()[0]
    assert first.startswith("tests/helpers/check_machine.py --ratings")
    assert "--nf4 --dtype bfloat16 --lora --batch 4" in first
    small = make(finished, "qwen", "CPU=1", "QWEN=Qwen/Qwen3-Embedding-0.6B")
    assert "encode.py out/qwen3-0.6b-report.safetensors" in small
    assert not any("tuned" in line for line in small)


def test_make_qwen_stops_where_the_check_refuses(finished):
    python = finished / ".venv/bin/python"
    python.write_text(
        STUB.replace('echo "$*" >> log', 'case "$*" in *check_machine.py*) exit 2;; esac', 1)
    )
    assert "Error 2" in make(finished, "qwen")
    assert not list((finished / "out").glob("qwen3-*"))


HARMFUL = {
    "OUT": ["", "my out", "data", "data/x", ".", "../", "tests", "data/ml-latest-small", "/"]
    + ["./results", "tests/../data", "$(CURDIR)", "$(CURDIR)/tests", "/tmp/../"],
    "DATA": ["", "my data", "nowhere"],
    "MINILM": ["", "a b"],
    "MPNET": ["a b"],
    "GPUS": ["x", "0", "00", "1 2"],
    "SETS": ["a/books b/books/"],
    "SEED": ["", "x", "-1", "4294967295"],
}


@pytest.mark.parametrize("bad", [f"{name}={x}" for name, bad in HARMFUL.items() for x in bad])
def test_a_variable_that_would_harm_is_one_line_and_nothing_is_done(folder, bad):
    before = sorted(folder.rglob("*"))
    for target in ("clean", "all"):
        error = make(folder, target, bad)
        assert error.count("\n") == 1 and bad.split("=")[0] in error
    assert sorted(set(folder.rglob("*")) - {folder / "log"}) == before


ODD = [":", ";", "%", "#", "$", "*", "?", "[", "]", "|", "\\", '"', "`", " ", "\t", "\n"]


@pytest.mark.parametrize(
    ("name", "odd"),
    [("DATA", odd) for odd in ODD]
    + [(name, odd) for name in ("OUT", "MINILM", "MPNET", "QWEN") for odd in "$: "]
    + [(name, "`") for name in ("ML_ZIP", "SETS", "SEED", "K", "LIKED", "GPUS")],
)
def test_a_name_that_make_or_the_shell_reads_otherwise_is_refused(folder, name, odd):
    before = sorted(folder.rglob("*"))
    error = make(folder, "all", f"{name}=a{odd}b")
    assert error.count("\n") == 1 and name in error
    assert (odd if odd.strip() else "without blanks") in error
    assert sorted(set(folder.rglob("*")) - {folder / "log"}) == before


@pytest.mark.parametrize("name", ["K", "LIKED"])
def test_a_value_reaches_the_script_as_it_was_given(folder, name):
    """The script refuses what is no number; the shell would have run it."""
    make(folder, "all", f"{name}=5 & touch ran > out")
    assert f" --{name.lower()} 5 & touch ran > out" in (folder / "log").read_text()
    assert not (folder / "ran").exists()


NAMES = ["tom&jerry", "plain(1)", "it's", "a=b,~c!{d}^<e>@+é(("]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_work_wherever_they_are_given(folder, name):
    """In a clone, too, whose own folder has such a name, and a blank."""
    folder = folder.rename(f"{folder} {name}")
    name = f"x{name}"
    (folder / name).mkdir()
    (folder / name / "ratings.csv").touch()
    (folder / name / "model.safetensors").touch()
    weights = (f"MINILM={name}", f"MPNET={name}", f"QWEN={name}")
    assert f"prepare out-{name}" in make(folder, "all", f"DATA={name}", *weights)
    assert f"--weights {name} " in (folder / "log").read_text()
    assert make(folder, "all", f"DATA={name}", *weights) == set()
    assert f"encode.py out-{name}/mpnet.safetensors" in make(
        folder, "mpnet", "qwen", f"DATA={name}", *weights
    )
    assert f"prepare out-{name}/quick" in make(
        folder, "all", f"DATA={name}", f"OUT=out-{name}/quick"
    )
    assert not (folder / "out").exists()
    list_as_ours(folder / f"out-{name}")
    assert make(folder, "clean", f"DATA={name}") == set()
    assert not (folder / f"out-{name}/results.json").exists()


@pytest.mark.parametrize("bad", ["OUT=data", "OUT=.", "OUT=..", "OUT=tests/x", "OUT=../HERE"])
def test_a_clone_in_a_folder_with_a_blank_keeps_its_own_places(folder, bad):
    folder = folder.rename(f"{folder} Drive")
    error = make(folder, "all", bad.replace("HERE", folder.name))
    assert error.count("\n") == 1 and "OUT" in error
    assert "prepare out" in make(folder, "all")
    other = f"../{folder.name.split()[0]}-2"
    assert f"prepare {other}" in make(folder, "all", f"OUT={other}")


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv", "tags.csv"])
def test_data_that_are_older_or_gone_are_other_data(mine, name):
    """mv, unzip and cp -p leave the time of the file that they put there."""
    make(mine, "all", "DATA=mine")
    (mine / "mine" / name).write_text("others\n")
    os.utime(mine / "mine" / name, (1, 1))
    assert make(mine, "all", "DATA=mine") == {"prepare out-mine"}
    assert make(mine, "all", "DATA=mine") == set()
    if name != "ratings.csv":
        (mine / "mine" / name).unlink()
        assert make(mine, "all", "DATA=mine") == {"prepare out-mine"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "1_Pooling/config.json"])
def test_weights_that_are_older_are_other_weights(folder, name):
    model = folder / "data/minilm" / name
    model.parent.mkdir(exist_ok=True)
    model.touch()
    plain = make(folder, "all")
    model.write_text("others")
    os.utime(model, (1, 1))
    alone = ("pmf.py out/pmf.s", "pmf.py out/pmf-fit", "prepare")
    assert make(folder, "all") == {line for line in plain if not line.startswith(alone)}


def test_a_setting_that_is_not_given_leads_nowhere(folder):
    """Files in the root folder of the machine are no part of it."""
    line = ["make", "-n", "LOCKED=out", "out/.set-LIKED"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, env=PLAIN)
    script = done.stdout.replace("cd ", "echo in ")
    assert done.returncode == 0
    subprocess.run(["bash", "-c", script], cwd=folder, check=True)
    assert (folder / "out/.set-LIKED").read_text() == ""


def test_data_of_one_name_do_not_share_a_folder(folder):
    for name in ("p1", "p2"):
        (folder / name / "books").mkdir(parents=True)
        (folder / name / "books/ratings.csv").touch()
    assert "prepare out-books" in make(folder, "all", "DATA=p1/books")
    for target in ("all", "clean"):
        error = make(folder, target, "DATA=p2/books")
        assert error.count("\n") == 1 and "out-books/ was made from DATA=p1/books" in error
    assert "prepare two" in make(folder, "all", "DATA=p2/books", "OUT=two")
    assert make(folder, "all", f"DATA={folder}/p1/books/") == set()
    folder = folder.rename(f"{folder} Drive")  # somebody moves the project
    assert make(folder, "all", "DATA=./p1/books") == set()


def test_a_zip_of_movielens_is_never_ignored(finished):
    (finished / "my zip").write_text("zip")
    given = ("data", "ML_ZIP=my zip")
    assert make(finished, *given) == {"fetch data/ml-latest-small"}
    assert "--zip my zip" in (finished / "log").read_text()
    assert make(finished, *given) == make(finished, "data") == set()
    (finished / "my zip").write_text("another")
    assert make(finished, *given) == {"fetch data/ml-latest-small"}
    assert make(finished, "all") == {"prepare out"}  # nothing else, unless a byte of it changes


def test_somebodys_results_are_not_taken_for_ours(finished):
    """evaluate refuses to replace them; make must not be content with them in silence."""
    (finished / "out/.written/results.json").unlink()
    edit(finished / "out/results.json")
    assert make(finished, "all") == {"evaluate out"}


@pytest.mark.parametrize("name", ["results.json", "table1.md", "figure1.svg"])
def test_a_deleted_table_comes_back(finished, name):
    (finished / "out" / name).unlink()
    assert make(finished, "all") == {"evaluate out"} and make(finished, "all") == set()


# ---- Two at once, and breaks ---------------------------------------------------------------------


def test_a_second_make_in_the_same_folder_is_told_so(finished):
    with open(finished / "out/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for target in ("all", "clean"):
            error = make(finished, target, "SEED=43")
            assert error.startswith("another make is at work in out; wait for it\n")
            assert "Error 2" in error and not (finished / "log").read_text()
        assert "prepare other" in make(finished, "all", "OUT=other")
        assert make(finished, "help") == set()
    assert "prepare out" in make(finished, "all", "SEED=43")


@pytest.fixture
def broken(folder):
    """A make that waits within its second stage, when that has written its file: broken(signal)."""
    python = folder / ".venv/bin/python"
    waits = 'case "$*" in *"$WAIT"*) touch waits; exec sleep 60;; esac\n'
    python.write_text(STUB + waits)

    def run(stage, signal, group):
        with subprocess.Popen(
            ["make", "all"],
            cwd=folder,
            env=PLAIN | {"WAIT": stage},
            process_group=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while not (folder / "waits").exists():
                time.sleep(0.01)
            (os.killpg if group else os.kill)(process.pid, signal)
        python.write_text(STUB)

    (folder / "log").touch()
    return run


@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGKILL, True), (signal.SIGINT, True), (signal.SIGTERM, False)]
)
@pytest.mark.parametrize("stage", ["--out out/minilm-tuned ", "--out out/minilm.safetensors"])
def test_what_a_broken_make_had_finished_stays_and_the_next_one_goes_on(
    folder, broken, stage, number, group
):
    """Ctrl-C or TERM after a file is whole and before its script has ended: make keeps it."""
    broken(stage, number, group)
    done = set((folder / "log").read_text().splitlines())
    made = folder / stage.split()[1]
    assert (made / "training.json" if made.is_dir() else made).exists()
    make(folder, "all")
    again = set((folder / "log").read_text().splitlines())
    assert not [line for line in done & again if stage in f"{line} "] and again
    assert make(folder, "all") == set() and (folder / "out/results.json").exists()


@pytest.fixture
def mine(folder):
    """Own data beside it, twice: ratings.csv has four lines, or a million and two."""
    for name, lines in (("mine", 4), ("large", 1_000_002)):
        (folder / name).mkdir()
        (folder / name / "ratings.csv").write_text("\n" * lines)
        (folder / name / "movies.csv").write_text("theirs")
    return folder


FACTORS = "pmf", "pmf-ranking", "pmf-ours", "pmf-all"
SHORT = {f"pmf.py {{}}/{name}.safetensors" for name in FACTORS} | {"prepare {}", "evaluate {}"}
SHORT |= {
    f"encode.py {{}}/{name}.safetensors" for name in ("minilm", "minilm-no-leak", "minilm-no-tags")
}
SHORT |= {"pmf.py {}/ours.json"}


def test_own_data_make_the_short_run_and_more_when_told(mine):
    assert make(mine, "all", "DATA=mine/", "OUT=new") == {line.format("new") for line in SHORT}
    assert make(mine, "all", "DATA=mine", "OUT=new") == set()  # it is the same
    assert make(mine, "all", "DATA=mine", "OUT=new") == set()
    assert "prepare new" in make(mine, "all", "DATA=mine", "OUT=new", "LIKED=7")
    assert "--data mine --out new --seed 42 --liked 7" in (mine / "log").read_text()
    tuned = make(mine, "all", "DATA=mine", "OUT=new", "LIKED=7", "TUNE=1")
    assert {line for line in tuned if line.startswith("contrastive")} == {
        "contrastive.py new/minilm-tuned",
        "contrastive.py new/minilm-tuned-report",
    }
    make(mine, "all", "DATA=mine")
    assert (mine / "out-mine/results.json").exists() and not (mine / "out").exists()


def test_a_row_of_own_data_does_not_depend_on_who_is_first(mine):
    """evaluate shows what is there: so it waits for each file that `make all` makes it a row of."""
    assert "encode.py new/minilm.safetensors" in make(
        mine, "new/results.json", "DATA=mine", "OUT=new"
    )


def test_own_data_beyond_a_million_ratings_take_the_fast_pmf(mine):
    for name, fast in (("mine", False), ("large", True)):
        make(mine, "all", f"DATA={name}")
        lines = (mine / "log").read_text().splitlines()
        assert ["--fast" in line for line in lines if f"{name}/pmf.safe" in line] == [fast]
        assert sum("--fast" in line for line in lines) == fast  # the ranking PMF is never


def test_own_data_stay_where_they_are(mine):
    for target in ("all", "clean"):
        for out in ("./mine", "large"):  # the same data, and other data
            error = make(mine, target, "DATA=mine", f"OUT={out}")
            assert f"OUT={out} is in use for something else" in error
    (mine / "theirs-quick").mkdir()
    (mine / "theirs-quick" / "ratings.csv").touch()
    (mine / "theirs-quick" / "movies.csv").touch()
    make(mine, "clean", "OUT=theirs")
    for name in ("mine", "large", "theirs-quick"):
        assert sorted(p.name for p in (mine / name).iterdir()) == ["movies.csv", "ratings.csv"]


def list_as_ours(folder):
    """List all that is in a folder as what the scripts have written, as metrics.whole does."""
    for path in [path for path in folder.iterdir() if path.name[0] != "."]:
        (folder / ".written").mkdir(exist_ok=True)
        (folder / ".written" / path.name).write_text(json.dumps(sorted(metrics._digests(path))))


def test_clean_deletes_what_was_written_and_is_unchanged_and_nothing_else(finished):
    out = finished / "out"
    for name in ("runs/ours.run", "minilm.safetensors.parts/0000.safetensors"):
        (out / name).parent.mkdir()
        (out / name).touch()
        list_as_ours((out / name).parent)
    list_as_ours(out)
    theirs = ["documents-old.txt", "table3.md", "minilm-notes.safetensors", "runs/mine.run"]
    theirs += ["minilm-tuned/notes.txt", "thesis.parts/0000.safetensors", ".notes.txt"]
    for name in theirs:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    (out / "table1.md").write_text("with my remarks")
    assert make(finished, "clean") == set()
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {"table1.md", *theirs}
    assert (finished / "data/minilm/model.safetensors").exists()


def test_clean_leaves_no_folder_where_all_was_ours(folder):
    for out in ("out", "out-quick", "out/split-1"):
        make(folder, "all", f"OUT={out}")
        list_as_ours(folder / out)
    make(folder, "clean")
    assert not list(folder.glob("out*"))
    (folder / "papers").mkdir()
    (folder / "papers/table1.md").touch()  # somebody's
    make(folder, "clean", "OUT=papers")
    assert [path.name for path in (folder / "papers").iterdir()] == ["table1.md"]
