"""Folders appear whole, left-overs of the dead go away, and what the disk refuses is one line."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest

import crosscoders.files
from crosscoders.errors import ConfigError, DiskError
from crosscoders.files import partial_path, remove_leftovers, whole_folder, write_whole
from crosscoders.owners import Owner
from crosscoders.training.lock import locked, refuse_if_locked


def write(folder, text):
    with whole_folder(folder) as partial:
        (partial / "file").write_text(text)


@pytest.fixture
def dead():
    """The owner that a process had which has ended."""
    code = "from crosscoders.owners import Owner; print(Owner.me())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return Owner.read(said.stdout.strip())


@pytest.fixture
def alive():
    """The owner of another process that lives."""
    code = "import sys; from crosscoders.owners import Owner; print(Owner.me(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    yield Owner.read(process.stdout.readline().strip())
    process.communicate()


def left_over(folder, owner, name="run", prefix=".partial-"):
    path = folder / f"{prefix}{name}-{owner}-0123abcd"
    path.mkdir(parents=True)
    (path / "file").write_text("half")
    return path


def test_owners(dead, alive):
    assert Owner.me().lives and alive.lives and not dead.lives
    assert Owner.read(str(alive)) == alive and Owner.read("nobody") is None
    # The number of a living process, given out again since.
    assert not Owner(alive.machine, alive.pid, alive.began - 1).lives


def test_a_folder_is_replaced_at_once(tmp_path, monkeypatch):
    target = tmp_path / "run"
    write(target, "one")
    there = target.stat().st_ino
    write(target, "two")
    assert (target / "file").read_text() == "two" and target.stat().st_ino != there
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    monkeypatch.setattr(crosscoders.files, "_renameat2", lambda: None)  # another system
    write(target, "three")
    assert (target / "file").read_text() == "three" and [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_the_dead_left_is_removed_by_the_next_save(tmp_path, dead, alive):
    gone = [left_over(tmp_path, dead), left_over(tmp_path, dead, name="step-1-of-it")]
    (tmp_path / f".partial-file-{dead}-01234567").write_text("half")
    kept = [left_over(tmp_path, alive), left_over(tmp_path, "0123abcd.1.1"), tmp_path / ".partial-run-shards"]
    kept[-1].mkdir()
    write(tmp_path / "run", "whole")
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["run", *(p.name for p in kept)])
    # One of another machine is given a day; who is alone here need not wait.
    os.utime(kept[1] / "file", (0, 0))
    os.utime(kept[1], (0, 0))
    remove_leftovers(tmp_path)
    assert [p.exists() for p in kept] == [True, False, True]
    remove_leftovers(tmp_path, alone=True)
    assert [p.exists() for p in kept] == [True, False, False]


def test_a_kill_between_two_renames_is_mended(tmp_path, dead):
    left_over(tmp_path, dead, prefix=".partial-old-")
    left_over(tmp_path, dead)
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"] and (tmp_path / "run" / "file").read_text() == "half"


def test_what_the_disk_refuses_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot write .*run: a file of this name is there"):
        write(tmp_path / "run", "text")
    with pytest.raises(DiskError, match=r"cannot write .*below: File exists"):
        write(tmp_path / "run" / "below", "text")

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskError, match="No space left on device") as caught:
        write_whole(tmp_path / "other", full)
    assert isinstance(caught.value, OSError) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_safetensors_cannot_write_is_one_line_too(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(DiskError, match=r"cannot write .*file: "):
        with crosscoders.files.disk_errors(tmp_path / "nowhere" / "file"):
            save_file({}, tmp_path / "nowhere" / "file")


def test_two_commands_do_not_share_a_folder(tmp_path, dead, alive):
    with locked(tmp_path / "run"):
        refuse = re.escape(f"{tmp_path / 'run'} is in use: process {os.getpid()} on ")
        with pytest.raises(ConfigError, match=refuse):
            refuse_if_locked(tmp_path / "run")
        with pytest.raises(ConfigError, match=refuse):
            with locked(tmp_path / "run"):
                pass
        assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert not list((tmp_path / "run").iterdir())
    for owner, taken in ((dead, False), (alive, True)):
        (tmp_path / "run" / ".lock").write_text(f'{{"owner": "{owner}", "machine": "here"}}')
        if taken:
            with pytest.raises(ConfigError, match=f"process {owner.pid} on here works there"):
                with locked(tmp_path / "run"):
                    pass
        else:
            refuse_if_locked(tmp_path / "run")
            with locked(tmp_path / "run"):
                pass
    (tmp_path / "run" / ".lock").write_text("damaged")
    with locked(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_a_lock_of_another_machine_holds_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    import threading

    from crosscoders.training import lock

    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    path = tmp_path / ".lock"
    path.write_text('{"owner": "0123abcd.1.1", "machine": "elsewhere"}')
    beats = threading.Timer(0.15, os.utime, [path])
    beats.start()
    with pytest.raises(ConfigError, match="process 1 on elsewhere works there"):
        with locked(tmp_path):
            pass
    beats.join()
    began = time.monotonic()
    with locked(tmp_path):
        assert time.monotonic() - began >= 0.5


def test_names_of_partials_are_known_again(tmp_path):
    path = partial_path(tmp_path / "a-b.c")
    path.mkdir()
    remove_leftovers(tmp_path, alone=True)
    assert path.exists(), "this process may still write it"
