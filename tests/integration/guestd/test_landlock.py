"""The second file wall: where processes may write whatever is mounted there, and that work goes on inside it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from gloveport.backends.bubblewrap.probe import LEAST_LANDLOCK, landlock_version

if TYPE_CHECKING:
    from conftest import Client, Variant

pytestmark = pytest.mark.skipif(
    landlock_version() < LEAST_LANDLOCK, reason=f"this kernel has Landlock {landlock_version()}"
)

NAMED = "/dev/shm"
"""Where the tests allow writing; everybody may write to the directory of a variant, too, but for the wall."""
ORPHAN = """
import errno, json, os, sys

here, there, name = sys.argv[1:]
os.makedirs(here + "/a/deep", exist_ok=True)
open(here + "/a/file", "w").close()

def attempt(action):
    try:
        action()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]

def attack(place, name):
    mine = place + "/" + name
    writes = {
        "a file": lambda: open(mine + "file", "w").write("x"),
        "more of it": lambda: open(mine + "file", "a").write("x"),
        "a directory": lambda: os.mkdir(mine + "directory"),
        "a link": lambda: os.symlink("file", mine + "link"),
        "a pipe": lambda: os.mkfifo(mine + "pipe"),
        "a socket": lambda: __import__("socket").socket(1).bind(mine + "socket"),
        "a nameless file": lambda: os.close(os.open(place, os.O_TMPFILE | os.O_RDWR)),
    }
    return {name: attempt(action) for name, action in writes.items()}

def work():
    os.rename(here + "/a/file", here + "/a/deep/file")
    os.link(here + "/a/deep/file", here + "/again")
    os.rename(here + "/a/deep", here + "/deep")
    with open("/dev/null", "w") as null:
        null.write("x")

reader, writer = os.pipe()
middle = os.fork()
if middle == 0:
    os.setsid()
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle:
            os.sched_yield()
        answers = [attack(here, "inside-"), attack(there, name)]
        answers += [attempt(lambda: open("/proc/self/comm", "w").write("x")), attempt(work)]
        os.write(writer, json.dumps(answers).encode())
    os._exit(0)
os.close(writer)
print(os.read(reader, 65536).decode())
for entry in os.listdir(there):
    if entry.startswith(name):
        (os.rmdir if entry.endswith("directory") else os.unlink)(there + "/" + entry)
"""


def answers_of(guestd: Client) -> tuple[set[str], set[str], str, str]:
    """What an orphan was told: inside, elsewhere, in its own `/proc`, at its work."""
    place = f"{NAMED}/gp-{guestd.process.pid}"
    assert guestd.builtin("mkdir", place, "777", "0").code == 0
    finished = guestd.run("python3", "-c", ORPHAN, place, guestd.directory, f"gp-{guestd.process.pid}-")
    assert guestd.builtin("remove", place, "1").code == 0
    assert finished.code == 0, finished
    inside, elsewhere, own, work = json.loads(finished.stdout)
    return set(inside.values()), set(elsewhere.values()), own, work


def test_an_orphan_writes_below_the_named_paths_and_nowhere_else(
    launch: Callable[..., Client],
) -> None:
    inside, elsewhere, own, work = answers_of(launch("-w", NAMED))
    assert (inside, work) == ({"ok"}, "ok")
    assert (elsewhere, own) == ({"EACCES"}, "EACCES")


def test_without_a_named_path_nothing_is_refused(guestd: Client) -> None:
    assert answers_of(guestd) == ({"ok"}, {"ok"}, "ok", "ok")


def test_a_wall_that_cannot_be_built_is_no_start(variant: Variant) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [*variant.command(theirs.fileno()), "-f", str(theirs.fileno()), "-w", "/nonexistent"]
        done = subprocess.run(
            command, pass_fds=[theirs.fileno()], env=variant.variables, cwd="/", capture_output=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"guestd: landlock: a writable path is missing\n")
