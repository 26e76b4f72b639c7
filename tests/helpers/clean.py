"""What make has made in a folder is deleted, and nothing else: `make clean` runs this.

Each write of the scripts puts name and sha256 into the file .ours.json beside what it wrote. A file
on that list whose bytes are still those goes; what was changed since, or is on no list, is the
user's and stays, and so does the folder then. Only Python's own library is needed.

Command:  python tests/helpers/clean.py out ..
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

LIST = ".ours.json"
OWN = (".prepared", ".set-*", ".lock")  # the Makefile's
INSIDE = ("runs", "*.parts")  # folders in which files are written one by one
KILLED = ("growth-????????", "qwen_size-????????")  # temporary folders of studies


def delete_listed(record):
    """Delete the files on a list that are as they were written, and the folders this empties."""
    for name, digest in json.loads(record.read_text()).items():
        file = record.parent / name
        if file.is_symlink() or not file.is_file():
            continue
        with open(file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                continue
        file.unlink()
        for folder in file.parents:
            if folder == record.parent or any(folder.iterdir()):
                break
            folder.rmdir()
    record.unlink()


def clean(out):
    """Delete what is ours in a folder, and the folder if nothing is left."""
    inside = [folder for pattern in INSIDE for folder in out.glob(pattern) if folder.is_dir()]
    for folder in (*inside, out):
        if (folder / LIST).is_file():
            delete_listed(folder / LIST)
        if folder != out and not any(folder.iterdir()):
            folder.rmdir()
    for pattern in KILLED:
        for left in out.glob(pattern):
            shutil.rmtree(left)
    for pattern in OWN:
        for file in out.glob(pattern):
            file.unlink()
    if not any(out.iterdir()):
        out.rmdir()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if Path(name).is_dir():
            try:
                clean(Path(name))
            except (OSError, ValueError) as error:
                sys.exit(f"{name} is not clean: {error}; delete what is left by hand")
