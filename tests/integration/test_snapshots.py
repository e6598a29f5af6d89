"""Snapshots, forks and reset: what was there is there again, to the byte, and nothing else is."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from gloveport.backends.bubblewrap.lifecycle import Lifecycle
from gloveport.backends.bubblewrap.live import LiveSandbox
from gloveport.errors import (
    BackendUnavailable,
    Conflict,
    GloveportError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PolicyDenied,
)
from gloveport.model import ExecRequest, FileRules, Origin, Overlay, Plan, Policy, PolicyLayer, Source, Spec, Tmpfs
from gloveport.sandbox import Manager, Sandbox
from gloveport.settings import Settings
from gloveport.store import read_trail
from gloveport.store.lower import LowerFacts

from ..conftest import PATIENCE, MakeRepository, files_no_larger_than  # noqa: TID252 - tests are no package of ours

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

EDITS = 12

EDIT = r"""
import os, random, socket, sys
seed, count = map(int, sys.argv[1:])
chance = random.Random(seed)
PLACES = ("/workspace", "/workspace", "/workspace", "/tmp", "/home/guest")

def anything(kind=None):
    found = [p for place in set(PLACES) for top, ds, fs in os.walk(place) for n in ds + fs
             for p in [os.path.join(top, n)] if kind is None or (kind(p) and not os.path.islink(p))]
    return chance.choice(sorted(found)) if found else None

def somewhere():
    directories = [t for place in PLACES for t, _, _ in os.walk(place)]
    return os.path.join(chance.choice(sorted(directories)), "n%d" % chance.randrange(30))

def opened(path):
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644), "wb")

def write(path=None):
    with opened(path or somewhere()) as file:
        file.write(chance.randbytes(chance.choice((0, 1, 100, 5000))))

def edit():
    path = anything(os.path.isfile)
    if path:
        with open(path, "r+b") as file:
            file.seek(chance.randrange(50)); file.write(b"changed")

def hole():
    with opened(somewhere()) as file:
        file.truncate(200000); file.seek(100000); file.write(b"in the middle")

def remove():
    path = anything()
    if path and os.path.isdir(path) and not os.path.islink(path):
        import shutil; shutil.rmtree(path)
    elif path:
        os.remove(path)

def mode():
    path = anything(lambda p: os.path.isfile(p) or os.path.isdir(p))
    if path: os.chmod(path, chance.choice((0, 0o400, 0o644, 0o755, 0o700, 0o4755, 0o1777)))

def times():
    path = anything()
    if path: os.utime(path, ns=(1, chance.randrange(2**60)), follow_symlinks=False)

def attribute():
    path = anything(os.path.isfile)
    if path: os.setxattr(path, "user.%s" % chance.choice("ab"), chance.randbytes(5))

def link():
    path = anything(os.path.isfile)
    if path: os.link(path, somewhere(), follow_symlinks=False)

def rename():
    path = anything()
    if path: os.rename(path, somewhere())

def bound():
    with socket.socket(socket.AF_UNIX) as s: s.bind(somewhere())

ACTS = [write, write, edit, hole, remove, mode, times, attribute, link, rename, bound,
        lambda: os.makedirs(somewhere()), lambda: os.symlink(chance.choice(("n1", "/etc/passwd", "..")), somewhere()),
        lambda: os.mkfifo(somewhere()), lambda: write(anything(os.path.isfile))]
for _ in range(count):
    try: chance.choice(ACTS)()
    except (OSError, ValueError): pass
"""
"""A program for the guest: so many random changes of files, by a seed."""

DIGEST = r"""
import base64, hashlib, json, os, stat, sys
said = []
def look(path):
    seen = os.lstat(path)
    mode = seen.st_mode
    fact = {"path": path, "mode": mode, "mtime": seen.st_mtime_ns, "uid": seen.st_uid}
    need = 0o700 if stat.S_ISDIR(mode) else 0o400 if stat.S_ISREG(mode) else 0
    if mode & need != need:
        os.chmod(path, stat.S_IMODE(mode) | need)
    if stat.S_ISLNK(mode): fact["target"] = os.readlink(path)
    if stat.S_ISREG(mode):
        fact["content"] = hashlib.sha256(open(path, "rb").read()).hexdigest()
        fact["size"] = seen.st_size
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        fact["attributes"] = {n: base64.b64encode(os.getxattr(path, n)).decode() for n in sorted(os.listxattr(path))}
    said.append(fact)
    if stat.S_ISDIR(mode):
        for name in sorted(os.listdir(path)): look(os.path.join(path, name))
    if mode & need != need: os.chmod(path, stat.S_IMODE(mode))
for place in ("/workspace", "/tmp", "/home/guest"): look(place)
print(json.dumps(said, sort_keys=True))
"""
"""A program for the guest: everything that can be told of its files, change times and numbers of inodes left out.

So are counts of links: an overlay gives those of the lower layer, names that were removed since included.
"""


async def run(sandbox: Sandbox, program: str, *words: object) -> bytes:
    """The output of a program of the guest's own Python, started as fast as it can be."""
    argv = ("python3", "-I", "-S", "-c", program, *map(str, words))
    done = await sandbox.exec(ExecRequest(argv=argv, output_bytes=2**26))
    assert done.ok, done.stderr.decode()
    return done.stdout


async def edit(sandbox: Sandbox, seed: int, count: int = EDITS) -> None:
    await run(sandbox, EDIT, seed, count)


async def tree(sandbox: Sandbox) -> list[dict[str, object]]:
    return json.loads(await run(sandbox, DIGEST))


async def beginning(sandbox: Sandbox) -> list[dict[str, object]]:
    """The same of a sandbox just made, without when its own `/tmp` and home were."""
    found = await tree(sandbox)
    return [{**fact, "mtime": 0} if fact["path"] in ("/tmp", "/home/guest") else fact for fact in found]


@pytest.fixture
def repository(make_repository: MakeRepository) -> Path:
    path = make_repository({"a": "first\n", "d/x": "x\n", "d/e/y": "y\n", "tool": "#!/bin/sh\n"})
    (path / "tool").chmod(0o755)
    (path / "link").symlink_to("d/x")
    os.link(path / "a", path / "d" / "same")
    (path / "empty").mkdir()
    return path


@pytest.fixture
async def on_repository(manager: Manager, repository: Path) -> AsyncIterator[Sandbox]:
    with anyio.fail_after(PATIENCE):
        yield Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))


async def test_forks_begin_alike_and_go_their_own_ways(on_repository: Sandbox) -> None:
    await edit(on_repository, 1, 60)
    before = await tree(on_repository)
    forks = await on_repository.fork(10)
    for number, fork in enumerate(forks):
        assert await tree(fork) == before
        await edit(fork, number, 20)
    trees = [await tree(fork) for fork in forks]
    assert all(one != other for number, one in enumerate(trees) for other in trees[:number])
    assert await tree(on_repository) == before


async def test_where_one_fork_fails_there_is_none(
    manager: Manager, on_repository: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, tries = Lifecycle.create, itertools.count(1)

    async def third_fails(self: Lifecycle, plan: Plan, known: LowerFacts | None) -> LiveSandbox:
        if next(tries) == 3:
            raise BackendUnavailable("no room for the third", hint="make room")
        return await create(self, plan, known)

    monkeypatch.setattr(Lifecycle, "create", third_fails)
    with pytest.raises(BackendUnavailable, match="no room for the third"):
        await on_repository.fork(8)
    assert [status.ref.id for status in await manager.statuses()] == [on_repository.id]
    assert len(await on_repository.fork(8)) == 8


async def test_a_fork_that_cannot_be_undone_keeps_no_other_and_hides_no_error(
    manager: Manager, on_repository: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, delete, tries, refusals = Lifecycle.create, Lifecycle.delete, itertools.count(1), itertools.count(1)

    async def last_fails(self: Lifecycle, plan: Plan, known: LowerFacts | None) -> LiveSandbox:
        if next(tries) == 12:
            raise BackendUnavailable("no room for the last", hint="make room")
        return await create(self, plan, known)

    async def first_complains(self: Lifecycle, sandbox: LiveSandbox) -> None:
        await delete(self, sandbox)
        if next(refusals) == 1:
            raise BackendUnavailable("its directory cannot be removed", hint="see what holds it")

    with monkeypatch.context() as patched:
        patched.setattr(Lifecycle, "create", last_fails)
        patched.setattr(Lifecycle, "delete", first_complains)
        with pytest.raises(BackendUnavailable, match="no room for the last"):
            await on_repository.fork(12)
    assert [status.ref.id for status in await manager.statuses()] == [on_repository.id]


async def test_two_names_of_one_file_are_one_file_again(on_repository: Sandbox) -> None:
    script = "echo 1 > one; ln one two; ln one d/three; echo t > /tmp/t; ln /tmp/t /tmp/u"
    await on_repository.exec(["sh", "-c", script])
    (fork,) = await on_repository.fork()
    seen = await fork.exec(
        ["sh", "-c", "stat -c '%i %h' one two d/three | sort -u; stat -c '%i %h' /tmp/t /tmp/u | sort -u"]
    )
    assert [line.split()[1] for line in seen.stdout.splitlines()] == [b"3", b"2"]


async def test_a_patch_of_a_fork_is_of_everything_since_the_source(on_repository: Sandbox, repository: Path) -> None:
    await on_repository.exec(["sh", "-c", "echo 2 >> a; rm -r d; mkdir d; echo n > d/n; ln -sf a link; rm tool"])
    (fork,) = await on_repository.fork()
    assert (await fork.diff()).data == (await on_repository.diff()).data
    await fork.exec(["sh", "-c", "echo 3 >> a; rm d/n; echo y > d/y; mkdir d/empty; git checkout -q tool"])
    patch = (await fork.diff()).data
    for path, text in (("a", b"first\n2\n3\n"), ("d/y", b"y\n")):
        assert text.splitlines()[-1] in patch
        assert (await fork.files.read(path)) == text
    subprocess.run(["git", "apply", "--check", "-"], cwd=repository, input=patch, check=True)
    subprocess.run(["git", "apply", "-"], cwd=repository, input=patch, check=True)
    assert not (repository / "d" / "x").exists()
    assert (repository / "d" / "y").read_text() == "y\n"
    assert (repository / "tool").exists()


async def test_a_reset_without_a_snapshot_is_the_first_state_and_nothing_else(on_repository: Sandbox) -> None:
    first = await beginning(on_repository)
    mess = """
        echo edited > a; git -c user.name=a -c user.email=a@b commit -qam edited; echo new > new; echo x > .gitignore
        git init -q nested; echo hook > .git/hooks/post-checkout; rm -rf .git/objects
        echo out > /tmp/out; echo h > ~/.bashrc
        (trap '' TERM HUP; sleep 3217) >/dev/null 2>&1 &
    """
    await on_repository.exec(["sh", "-c", mess])
    await on_repository.reset()
    assert await beginning(on_repository) == first
    left = await on_repository.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
    assert b"3217" not in left.stdout
    assert (await on_repository.diff()).data == b""
    assert (await on_repository.status()).state == "running"


async def test_a_fork_goes_back_to_its_own_beginning_or_to_the_source(on_repository: Sandbox) -> None:
    first = await beginning(on_repository)
    await edit(on_repository, 3)
    before = await tree(on_repository)
    (fork,) = await on_repository.fork()
    await edit(fork, 4)
    await fork.reset()
    assert await tree(fork) == before
    await fork.reset("base")
    assert await beginning(fork) == first


async def test_processes_go_on_after_a_snapshot_and_none_writes_while_it_is_taken(on_repository: Sandbox) -> None:
    writer = "i=0; while :; do i=$((i+1)); echo $i >> one; echo $i >> two; done"
    process = await on_repository.start(["sh", "-c", writer])
    while not (await on_repository.exec(["cat", "two"])).stdout:
        pass
    lengths = [0]
    for _ in range(5):
        (fork,) = await on_repository.fork()
        one, two = [int(count) for count in (await fork.exec(["sh", "-c", "wc -l < one; wc -l < two"])).stdout.split()]
        assert one - two in (0, 1), "one file is of another moment than the other"
        lengths.append(one)
        await fork.delete()
        while len((await on_repository.files.read("one")).split()) <= one:
            pass
    assert lengths == sorted(set(lengths)), "the writer stood still between two snapshots"
    await process.signal(signal.SIGKILL)
    await process.wait()


SPECIAL = """
import os, struct
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
    (1, 6, 2**32 - 1), (2, 4, os.getuid()), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)))
with open("listed", "w") as file:
    os.setxattr("listed", "system.posix_acl_access", acl)
with open("sparse", "w") as file:
    os.truncate("sparse", 64 * 2**20)
"""
LOOK = """
import os, struct
acl = os.getxattr("listed", "system.posix_acl_access")
named = [number for tag, _, number in struct.iter_unpack("<HHI", acl[4:]) if tag == 2]
seen = os.stat("sparse")
print(named == [os.getuid()], oct(os.stat("listed").st_mode), seen.st_size, seen.st_blocks)
"""


async def test_access_control_lists_and_holes_are_kept(on_repository: Sandbox) -> None:
    await run(on_repository, SPECIAL)
    (fork,) = await on_repository.fork()
    for sandbox in (on_repository, fork):
        assert (await run(sandbox, LOOK)).split() == [b"True", b"0o100640", str(64 * 2**20).encode(), b"0"]


async def test_what_is_shown_below_tmp_is_no_part_of_a_snapshot_and_shown_again(manager: Manager, place: Path) -> None:
    shown = place / "tools"
    (shown / "bin").mkdir(parents=True)
    (shown / "bin" / "tool").write_text("#!/bin/sh\necho ready\n")
    (shown / "bin" / "tool").chmod(0o755)
    sandbox = Sandbox(await manager.create(Spec(read_only=(str(shown),))))
    await sandbox.exec(["sh", "-c", f"echo kept > /tmp/kept; mkdir {place}/beside; echo too > {place}/beside/file"])
    snapshot = await sandbox.snapshot()
    sealed = manager.snapshots.layer(snapshot, "tmp")
    names = {str(path.relative_to(sealed)) for path in sealed.rglob("*")}
    assert names == {"kept", place.name, f"{place.name}/beside", f"{place.name}/beside/file"}
    (fork,) = await sandbox.fork()
    await sandbox.reset(snapshot.id)
    for each in (sandbox, fork):
        said = await each.exec(["sh", "-c", f"cat /tmp/kept {place}/beside/file; {shown}/bin/tool"])
        assert said.stdout.split() == [b"kept", b"too", b"ready"], said


async def test_a_paused_sandbox_stands_still_and_can_be_saved(on_repository: Sandbox) -> None:
    held = on_repository._held
    process = await on_repository.start(["sh", "-c", "while :; do date +%N > now; done"])
    while not (await on_repository.exec(["cat", "now"])).stdout:
        pass
    await held.backend.pause(held.ref)
    assert (await on_repository.status()).state == "paused"
    with pytest.raises(Conflict, match="paused"):
        await on_repository.exec(["true"])
    one, two = await on_repository.snapshot(), await on_repository.snapshot()
    assert one.id == two.id
    await held.backend.resume(held.ref)
    before = await on_repository.files.read("now")
    while (await on_repository.files.read("now")) == before:
        pass
    await process.signal(signal.SIGKILL)
    await process.wait()


async def test_a_program_that_starts_others_all_the_time_can_be_paused(on_repository: Sandbox) -> None:
    """A shell waits in the kernel for a child that was stopped between its `vfork` and its `exec`."""
    held = on_repository._held
    process = await on_repository.start(["sh", "-c", "(while :; do /bin/true; done) & while :; do /bin/true; done"])
    for _ in range(20):
        await held.backend.pause(held.ref)
        await held.backend.resume(held.ref)
    await process.signal(signal.SIGKILL)
    await process.wait()


async def test_the_same_state_is_the_same_snapshot_and_another_is_another(on_repository: Sandbox) -> None:
    one = await on_repository.snapshot("one")
    assert (await on_repository.snapshot()).id == one.id
    await on_repository.exec(["sh", "-c", "touch -d @1 a"])
    other = await on_repository.snapshot()
    assert other.id != one.id
    manager = on_repository._held.manager
    assert [snapshot.id for snapshot in manager.snapshots.all()] == [one.id, other.id]
    assert manager.snapshots.get("one").id == one.id
    assert manager.snapshots.get(other.id[:14]).id == other.id
    with pytest.raises(NotFound, match="nothing-such"):
        manager.snapshots.get("nothing-such")


async def test_snapshots_outlive_their_sandbox_and_their_manager(settings: Settings, repository: Path) -> None:
    async with Manager(settings) as manager:
        sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))
        await edit(sandbox, 5)
        before = await tree(sandbox)
        snapshot = await sandbox.snapshot("kept")
    async with Manager(settings) as manager:
        sandbox = Sandbox(await manager.create(Spec(snapshot="kept")))
        assert await tree(sandbox) == before
        assert (await sandbox.snapshot()).id == snapshot.id


async def test_a_source_that_changed_since_refuses_what_was_saved_on_it(settings: Settings, repository: Path) -> None:
    async with Manager(settings) as manager:
        sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))
        snapshot = await sandbox.snapshot()
        (repository / "a").write_text("changed by the user\n")
        await sandbox.reset(snapshot.id)  # it stands on that very directory, and sees it change anyhow
        with pytest.raises(Conflict, match="has changed since"):
            await manager.create(Spec(snapshot=snapshot.id))


async def test_a_commit_cannot_change_and_so_its_snapshots_always_fit(settings: Settings, repository: Path) -> None:
    async with Manager(settings) as manager:
        spec = Spec(source=Source(repo=str(repository), commit="main"))
        one, two = Sandbox(await manager.create(spec)), Sandbox(await manager.create(spec))
        assert (await one.snapshot()).base == (await two.snapshot()).base
        saved = await one.snapshot()
        (repository / "a").write_text("changed by the user\n")
        again = Sandbox(await manager.create(Spec(snapshot=saved.id)))
        assert await tree(again) == await tree(one)


@pytest.mark.parametrize("harm", ["altered", "longer", "removed", "record", "time"])
async def test_a_damaged_snapshot_starts_nothing(manager: Manager, on_repository: Sandbox, harm: str) -> None:
    await on_repository.exec(["sh", "-c", "echo precious > a"])
    snapshot = await on_repository.snapshot()
    place = manager.snapshots.layer(snapshot, "workspace")
    (fork,) = await on_repository.fork()
    file = place / "a"
    if harm == "altered":
        file.write_bytes(b"previous\n"[: file.stat().st_size])
    elif harm == "longer":
        file.write_text("precious\nand more\n")
    elif harm == "removed":
        file.unlink()
    elif harm == "time":
        os.utime(file, ns=(0, 0))
    else:
        record = place.parent.parent / "snapshot.json"
        record.write_text(record.read_text().replace('"entries": ', '"entries": 1'))
    with pytest.raises(BackendUnavailable, match="is damaged"):
        await manager.create(Spec(snapshot=snapshot.id))
    with pytest.raises(BackendUnavailable, match="is damaged"):
        await on_repository.reset(snapshot.id)
    assert (await on_repository.exec(["cat", "a"])).stdout == b"precious\n"
    await fork.delete()


async def test_what_is_damaged_is_healed_by_the_same_snapshot_and_can_be_pruned(
    manager: Manager, on_repository: Sandbox
) -> None:
    await on_repository.exec(["sh", "-c", "echo kept > kept"])
    snapshot = await on_repository.snapshot()
    (manager.snapshots.layer(snapshot, "workspace") / "kept").write_text("altered")
    assert (await on_repository.snapshot()).id == snapshot.id
    again = Sandbox(await manager.create(Spec(snapshot=snapshot.id)))
    assert (await again.exec(["cat", "kept"])).stdout == b"kept\n"
    await again.delete()
    (manager.snapshots.root / snapshot.id.removeprefix("sha256:") / "snapshot.json").write_text("{")
    await manager.prune()
    assert len(manager.snapshots._paths()) == 1
    await manager.prune(labelled=True)
    assert manager.snapshots._paths() == []


@pytest.mark.parametrize("label", ["base", "3fa9c1", "", "a/b", "x" * 65, "\x1b[31m"])
async def test_a_label_is_no_id_and_no_terminal_code(on_repository: Sandbox, label: str) -> None:
    if label:
        with pytest.raises(InvalidRequest, match="not a label"):
            await on_repository.snapshot(label)
    assert (await on_repository.snapshot("before the fix")).label == "before the fix"


async def test_nothing_is_pruned_under_forks_that_are_being_made(manager: Manager, on_repository: Sandbox) -> None:
    await on_repository.exec(["sh", "-c", "echo kept > kept"])
    forks: list[Sandbox] = []

    async def fork() -> None:
        forks.extend(await on_repository.fork(3))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(fork)
                tasks.start_soon(manager.prune)
    for each in forks:
        assert (await each.exec(["cat", "kept"])).stdout == b"kept\n"
        await each.reset()
        assert (await each.exec(["cat", "kept"])).stdout == b"kept\n"


async def test_resets_and_deletes_at_once_take_turns_and_lose_nothing(manager: Manager, on_repository: Sandbox) -> None:
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(on_repository.reset)
        assert (await on_repository.exec(["true"])).ok

        async def reset() -> None:
            with suppress(NotFound):  # whichever comes first
                await on_repository.reset()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reset)
            tasks.start_soon(on_repository.delete)
    assert on_repository.id not in {status.ref.id for status in await manager.statuses()}
    await on_repository.delete()


async def test_the_beginning_of_a_fork_is_kept_while_it_stands_on_the_source(
    manager: Manager, on_repository: Sandbox
) -> None:
    await on_repository.exec(["sh", "-c", "echo kept > kept"])
    (fork,) = await on_repository.fork()
    await fork.reset("base")
    await manager.prune()
    await fork.reset()
    assert (await fork.exec(["cat", "kept"])).stdout == b"kept\n"


THREADS = """
import threading
def write(name):
    with open(name, "ab", 0) as file:
        while True:
            file.write(b"x")
for name in "wxyz":
    threading.Thread(target=write, args=(name,)).start()
"""


async def test_every_thread_stands_still_while_a_sandbox_is_paused(
    manager: Manager, on_repository: Sandbox, settings: Settings
) -> None:
    held = on_repository._held
    process = await on_repository.start(["python3", "-c", THREADS])
    while not (await on_repository.exec(["sh", "-c", "for name in w x y z; do test -s $name || exit 1; done"])).ok:
        pass
    upper = settings.state / "sandboxes" / on_repository.id / "guest" / "upper"
    for _ in range(10):
        await held.backend.pause(held.ref)
        seen = {tuple((upper / name).stat().st_size for name in "wxyz") for _ in range(200)}
        assert len(seen) == 1
        await held.backend.resume(held.ref)
    await process.signal(signal.SIGKILL)
    await process.wait()


async def test_a_layer_that_was_only_touched_is_read_and_found_whole(manager: Manager, on_repository: Sandbox) -> None:
    await on_repository.exec(["sh", "-c", "echo precious > a"])
    snapshot = await on_repository.snapshot()
    (manager.snapshots.layer(snapshot, "workspace") / "a").chmod(0o644)
    assert (await Sandbox(await manager.create(Spec(snapshot=snapshot.id))).files.read("a")) == b"precious\n"


async def test_a_snapshot_that_finds_no_room_leaves_nothing(manager: Manager, on_repository: Sandbox) -> None:
    await on_repository.exec(["sh", "-c", "head -c 3000000 /dev/urandom > big"])
    before = await tree(on_repository)
    with files_no_larger_than(1_000_000), pytest.raises((LimitExceeded, BackendUnavailable)):
        await on_repository.snapshot()
    assert manager.snapshots.all() == []
    assert [path.name for path in manager.snapshots.root.iterdir() if path.name != "lock"] == []
    assert await tree(on_repository) == before


async def test_what_a_sandbox_stands_on_is_not_removed(manager: Manager, on_repository: Sandbox) -> None:
    (fork,) = await on_repository.fork()
    (snapshot,) = manager.snapshots.all()
    with pytest.raises(Conflict, match="stands on"):
        await manager.forget(snapshot.id)
    assert await manager.prune(labelled=True) == []
    await manager.delete(fork.id)
    assert [one.id for one in await manager.prune()] == [snapshot.id]
    assert manager.snapshots.all() == []


async def test_a_named_snapshot_is_kept_until_it_is_asked_for(manager: Manager, on_repository: Sandbox) -> None:
    snapshot = await on_repository.snapshot("kept")
    assert await manager.prune() == []
    assert (await manager.forget("kept")).id == snapshot.id
    assert manager.snapshots.all() == []


async def test_every_snapshot_and_reset_is_in_the_trail(on_repository: Sandbox, settings: Settings) -> None:
    snapshot = await on_repository.snapshot("one")
    await on_repository.reset(snapshot.id)
    (path,) = (settings.data / "audit").iterdir()
    events = {event.kind: event.data for event in read_trail(path)}
    assert events["snapshot.taken"]["snapshot"] == snapshot.id
    assert events["sandbox.reset"]["plan"]["mounts"][-1]["layer"].endswith("/workspace")


async def test_what_cannot_be_is_refused_before_anything_ends(manager: Manager, on_repository: Sandbox) -> None:
    empty = Sandbox(await manager.create(Spec()))
    snapshot = await empty.snapshot()
    await on_repository.exec(["sh", "-c", "echo here > here"])
    with pytest.raises(Conflict, match="another source"):
        await on_repository.reset(snapshot.id)
    with pytest.raises(NotFound):
        await on_repository.reset("sha256:0000")
    with pytest.raises(InvalidRequest):
        await on_repository.fork(0)
    with pytest.raises(InvalidRequest, match="its own source"):
        await manager.create(Spec(snapshot=snapshot.id, source=Source(repo="/")))
    assert (await on_repository.exec(["cat", "here"])).stdout == b"here\n"


async def test_what_a_policy_hides_is_not_shown_by_way_of_a_snapshot(manager: Manager, repository: Path) -> None:
    sandbox = Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))
    snapshot = await sandbox.snapshot()
    rules = FileRules(hidden=(str(repository / "d"),))
    policy = Policy(layers=(PolicyLayer(origin=Origin(layer="project"), files=rules),))
    with pytest.raises(PolicyDenied, match="which the policy hides"):
        await manager.create(Spec(snapshot=snapshot.id, policy=policy))


async def test_a_sandbox_that_has_ended_cannot_be_saved(on_repository: Sandbox) -> None:
    await on_repository._held.backend.delete(on_repository.ref)
    with pytest.raises(GloveportError):
        await on_repository.snapshot()


async def test_a_plan_from_elsewhere_names_no_directory_as_a_layer(manager: Manager, settings: Settings) -> None:
    plan = await manager.plan(Spec())
    for path in ("/etc", str(settings.data), str(settings.data / "snapshots"), str(settings.data / "snapshots" / "a")):
        mounts = tuple(
            replace(mount, layer=path)
            if isinstance(mount, Overlay)
            else replace(mount, content=path)
            if isinstance(mount, Tmpfs) and mount.saved_as
            else mount
            for mount in plan.mounts
        )
        with pytest.raises(PolicyDenied, match="no part of a snapshot"):
            await manager.apply(replace(plan, mounts=mounts))


async def test_a_tree_deeper_than_a_path_is_refused_and_nothing_is_left(
    manager: Manager, on_repository: Sandbox
) -> None:
    deep = "import os\nfor _ in range(2000):\n os.mkdir('abc'); os.chdir('abc')"
    assert (await on_repository.exec(["python3", "-c", deep])).ok
    with pytest.raises(LimitExceeded, match="deeper than a path"):
        await on_repository.snapshot()
    assert manager.snapshots.all() == []
