"""Snapshots as files: in another installation they are what they were, and a file that lies makes nothing."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import signal
import stat
import struct
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from gloveport.errors import (
    BackendUnavailable,
    Conflict,
    GloveportError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PolicyDenied,
    Unsupported,
)
from gloveport.model import Base, Overlay, Snapshot, Source, Spec
from gloveport.sandbox import Manager, Sandbox
from gloveport.sandbox.snapshot_files import load_snapshot, save_snapshot, write_snapshot
from gloveport.settings import Settings
from gloveport.store import LAYER_OWNER, Snapshots, remove_tree
from gloveport.store.lower import inspect_lower

from ..conftest import PATIENCE, Cli, MakeRepository, files_no_larger_than  # noqa: TID252 - tests are no package of ours
from .test_snapshots import SPECIAL, edit, run, tree

pytestmark = [pytest.mark.anyio, pytest.mark.needs("bubblewrap")]

ODD = r"""
import os, socket
os.makedirs(b"odd/\xff\xfe\n dir")
for name in (b"odd/\xff\xfe\n dir/x", b"odd/" + b"n" * 255, b"odd/ends in space ", "odd/\u00e4\U0001f600".encode(),
             b"odd/a=b", b"odd/%41", b"odd/.wh", b"odd/\\", b"odd/-"):
    open(name, "wb").write(name)
os.symlink(b"\xff" * 300, b"odd/link"); os.symlink(b"/etc/passwd", b"odd/out"); os.symlink(b"dir/", b"odd/slash")
deep = "odd/" + "/".join(["deep" * 20] * 12)
os.makedirs(deep); os.link(b"odd/-", deep + "/same"); os.link("a", "odd/a"); os.mkfifo("odd/pipe", 0o640)
with socket.socket(socket.AF_UNIX) as s: s.bind("odd/socket")
os.chmod("odd/socket", 0o711); os.chmod("odd/-", 0o1751); os.chmod("odd/.wh", 0)
for number, name in enumerate(("odd/a=b", "odd/%41", "odd", "odd/pipe", "odd/out")):
    os.utime(name, ns=(5, (-1, 1, 2**33 * 10**9 + 7, -10**9, 123456789)[number]), follow_symlinks=False)
os.setxattr("odd/a=b", b"user.=%\xff ", b"\0\xff\n=1 x=\n"); os.setxattr("odd", "user.d", b"")
os.setxattr("odd/a=b", "user.mime", "\u00e4".encode())
os.mkdir("odd/closed"); open("odd/closed/in", "w").close(); os.chmod("odd/closed", 0)
"""
"""A program for the guest: everything that a name, a time and an attribute can be."""
DELETIONS = "rm -r d tool; mkdir d; echo new > d/new; rm link; mkdir link; rm -r empty; echo > empty"


@pytest.fixture
def repository(make_repository: MakeRepository) -> Path:
    path = make_repository({"a": "first\n", "d/x": "x\n", "d/e/y": "y\n", "tool": "#!/bin/sh\n", "p/q/r/s": "s\n"})
    (path / "tool").chmod(0o755)
    (path / "link").symlink_to("d/x")
    os.link(path / "a", path / "d" / "same")
    (path / "empty").mkdir()
    os.setxattr(path / "a", "user.of-the-source", b"\xff\0")
    os.utime(path / "a", ns=(1, 1234567890123456789))
    return path


@pytest.fixture
async def elsewhere(place: Path) -> AsyncIterator[Manager]:
    """Another installation."""
    async with Manager(Settings(state=place / "state2", data=place / "data2", idle_seconds=PATIENCE)) as manager:
        yield manager


@pytest.fixture
def file(place: Path) -> Path:
    return place / "saved.tar"


async def on(manager: Manager, repository: Path | None) -> Sandbox:
    return Sandbox(await manager.create(Spec(source=Source(repo=str(repository)) if repository else None)))


async def start(manager: Manager, snapshot: Snapshot) -> Sandbox:
    return Sandbox(await manager.create(Spec(snapshot=snapshot.id)))


def left(store: Snapshots) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.name != "lock") if store.root.exists() else []


async def test_everything_is_there_in_another_installation_also_when_the_source_is_gone(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path
) -> None:
    sandbox = await on(manager, repository)
    await run(sandbox, ODD)
    await run(sandbox, SPECIAL)
    await sandbox.exec(
        ["sh", "-c", DELETIONS + "; echo t > /tmp/t; ln /tmp/t /tmp/u; echo h > ~/.bashrc; touch /tmp/.x"]
    )
    await edit(sandbox, 11, 60)
    before, patch = await tree(sandbox), (await sandbox.diff()).data
    snapshot = await sandbox.snapshot("taken along")
    told = await manager.save(snapshot.id, file)
    remove_tree(repository)
    loaded = await elsewhere.load(file)
    assert loaded == told
    assert (loaded.label, loaded.sandbox, loaded.created_at) == ("taken along", sandbox.id, snapshot.created_at)
    assert loaded.base == Base()
    again = await start(elsewhere, loaded)
    assert await tree(again) == before
    assert (await again.diff()).data == patch
    await edit(again, 12)
    await again.reset()
    assert await tree(again) == before
    (fork,) = await again.fork()
    assert await tree(fork) == before
    assert os.stat(elsewhere.snapshots.layer(loaded, "workspace") / "sparse").st_blocks == 0
    other = file.with_name("again.tar")
    assert await elsewhere.load(file) == loaded
    assert left(elsewhere.snapshots).count(loaded.id[7:]) == 1
    assert await elsewhere.save("taken along", other) == loaded
    assert other.read_bytes() == file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("seed", range(6))
async def test_any_edits_come_through_a_file(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path, seed: int
) -> None:
    sandbox = await on(manager, repository)
    for part in range(2):  # the second time on two layers
        await edit(sandbox, seed * 2 + part, 50)
        before = await tree(sandbox)
        await manager.save((await sandbox.snapshot()).id, file)
        assert await tree(await start(elsewhere, await elsewhere.load(file))) == before
        (sandbox,) = await sandbox.fork()


async def test_the_source_of_a_commit_goes_along_too(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path
) -> None:
    spec = Spec(source=Source(repo=str(repository), commit="main"))
    sandbox = Sandbox(await manager.create(spec))
    await sandbox.exec(["sh", "-c", "echo more >> a; rm d/x"])
    before = await tree(sandbox)
    await manager.save((await sandbox.snapshot()).id, file)
    assert await tree(await start(elsewhere, await elsewhere.load(file))) == before


@pytest.mark.needs("root")
async def test_the_files_of_several_owners_are_the_guests_own(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path
) -> None:
    os.chown(repository / "a", 12345, 12345)
    sandbox = await on(manager, repository)
    await sandbox.exec(["sh", "-c", "echo more >> a"])
    before = await tree(sandbox)
    await manager.save((await sandbox.snapshot()).id, file)
    assert await tree(await start(elsewhere, await elsewhere.load(file))) == before


async def test_a_snapshot_of_an_empty_workspace_keeps_its_very_id(
    manager: Manager, elsewhere: Manager, file: Path
) -> None:
    sandbox = await on(manager, None)
    await edit(sandbox, 3, 40)
    snapshot = await sandbox.snapshot()
    assert await manager.save(snapshot.id, file) == snapshot
    assert await elsewhere.load(file) == snapshot
    assert await manager.load(file) == snapshot
    assert await tree(await start(elsewhere, snapshot)) == await tree(sandbox)


@pytest.mark.needs("root")
async def test_what_was_copied_stays_a_copy_and_its_source_what_a_patch_is_told_from(
    on_overlay: Path, elsewhere: Manager, place: Path, repository: Path, file: Path
) -> None:
    """Where no overlay can be mounted: the layer has everything, and covers what lies under it."""
    async with Manager(Settings(state=on_overlay / "state", data=place / "data")) as manager:
        sandbox = await on(manager, repository)
        await sandbox.exec(["sh", "-c", "rm -r d/e tool; echo 2 >> a; echo n > n"])
        before, patch = await tree(sandbox), (await sandbox.diff()).data
        snapshot = await sandbox.snapshot()
        assert snapshot.base.is_covered
        await manager.save(snapshot.id, file)
    names = [layer.getnames() for layer in layers_of(file)]
    assert [".wh..wh..opq" in " ".join(each) for each in names] == [False, True, False, False]
    loaded = await elsewhere.load(file)
    assert loaded.base == Base(is_covered=True)
    again = await start(elsewhere, loaded)
    assert await tree(again) == before
    assert (await again.diff()).data == patch
    await elsewhere.save(loaded.id, file.with_name("again.tar"))
    assert file.with_name("again.tar").read_bytes() == file.read_bytes()


def layers_of(file: Path) -> list[tarfile.TarFile]:
    """The layers of a file, the lowest first."""
    found = documents(file.read_bytes())
    manifest = json.loads(found[_blob(json.loads(found["index.json"])["manifests"][0])])
    return [tarfile.open(fileobj=io.BytesIO(found[_blob(layer)])) for layer in manifest["layers"]]


async def test_a_file_is_an_image_as_others_read_it(manager: Manager, repository: Path, file: Path) -> None:
    """Names as the guest has them, in layers of an image, with deletions as an image says them."""
    sandbox = await on(manager, repository)
    await sandbox.exec(["sh", "-c", "rm -r d; mkdir d; rm tool; echo n > n; echo t > /tmp/t; echo h > ~/h"])
    await manager.save((await sandbox.snapshot()).id, file)
    base, workspace, tmp, home = [set(layer.getnames()) for layer in layers_of(file)]
    assert {"workspace", "workspace/a", "workspace/d/e/y", "workspace/.git/HEAD"} <= base
    assert workspace >= {"workspace", "workspace/.wh.tool", "workspace/d", "workspace/d/.wh..wh..opq", "workspace/n"}
    assert (tmp, home) == ({"tmp", "tmp/t"}, {"home/guest", "home/guest/h"})
    unpacked = file.with_name("unpacked")
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", file, "-C", unpacked], check=True)
    for blob in (unpacked / "blobs" / "sha256").iterdir():
        assert sha256(blob.read_bytes()).hexdigest() == blob.name


async def test_a_snapshot_on_a_loaded_one_keeps_it_and_is_saved_whole(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path
) -> None:
    await manager.save((await (await on(manager, repository)).snapshot()).id, file)
    loaded = await elsewhere.load(file)
    sandbox = await start(elsewhere, loaded)
    await edit(sandbox, 21, 40)
    before = await tree(sandbox)
    later = await sandbox.snapshot("later")
    assert later.base == Base(path=elsewhere.snapshots.lower(loaded) or "")
    await sandbox.reset(loaded.id)
    await sandbox.reset(later.id)
    assert await tree(sandbox) == before
    await sandbox.reset("base")
    with pytest.raises(Conflict, match="a sandbox stands on"):
        await elsewhere.forget(loaded.id)
    await sandbox.delete()
    with pytest.raises(Conflict, match="another snapshot stands on"):
        await elsewhere.forget(loaded.id)
    assert await elsewhere.prune() == []
    again = await start(elsewhere, later)
    assert await tree(again) == before
    assert await elsewhere.prune(labelled=True) == []
    await elsewhere.save(later.id, file)
    await again.delete()
    assert {one.id for one in await elsewhere.prune(labelled=True)} == {later.id, loaded.id}
    assert left(elsewhere.snapshots) == []
    assert await tree(await start(elsewhere, await elsewhere.load(file))) == before


async def test_a_plan_may_lie_on_a_layer_and_on_nothing_else_of_the_platforms_own(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path
) -> None:
    await manager.save((await (await on(manager, repository)).snapshot()).id, file)
    loaded = await elsewhere.load(file)
    plan = await elsewhere.plan(Spec(snapshot=loaded.id))
    held = await elsewhere.apply(plan)
    assert (await Sandbox(held).files.read("a")) == b"first\n"
    layers = elsewhere.snapshots.layer(loaded, "base").parent
    for lower in (layers, layers.parent, layers.parent.parent, layers / "base" / "d", layers / "base" / ".." / ".."):
        mounts = tuple(replace(each, lower=str(lower)) if isinstance(each, Overlay) else each for each in plan.mounts)
        with pytest.raises(PolicyDenied):
            await elsewhere.apply(replace(plan, mounts=mounts, sandbox="another"))


async def test_a_loaded_one_under_another_that_was_altered_starts_nothing(
    manager: Manager, elsewhere: Manager, repository: Path, file: Path
) -> None:
    await manager.save((await (await on(manager, repository)).snapshot()).id, file)
    loaded = await elsewhere.load(file)
    sandbox = await start(elsewhere, loaded)
    later = await sandbox.snapshot()
    await sandbox.delete()
    (elsewhere.snapshots.layer(loaded, "base") / "a").write_text("altered\n")
    for snapshot in (loaded, later):
        with pytest.raises(BackendUnavailable, match="is damaged"):
            await start(elsewhere, snapshot)
        with pytest.raises(BackendUnavailable, match="is damaged"):
            await elsewhere.save(snapshot.id, file.with_name("never.tar"))
    assert not file.with_name("never.tar").exists()


async def test_a_source_that_changed_is_not_saved_and_leaves_no_file(
    manager: Manager, repository: Path, file: Path
) -> None:
    snapshot = await (await on(manager, repository)).snapshot()
    (repository / "a").write_text("changed by the user\n")
    with pytest.raises(Conflict, match="has changed since"):
        await manager.save(snapshot.id, file)
    remove_tree(repository)
    with pytest.raises(NotFound):
        await manager.save(snapshot.id, file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["data", "state"]


async def test_a_source_that_changes_meanwhile_is_not_saved(manager: Manager, repository: Path) -> None:
    """The user writes while the file is written: here whenever a piece of it is."""
    snapshot = await (await on(manager, repository)).snapshot()

    class Busy(io.BytesIO):
        def write(self, data: object) -> int:
            (repository / "p" / "q" / "r" / "s").write_text("t\n")
            return super().write(data)  # type: ignore[arg-type]

    with pytest.raises(Conflict, match="while it was saved"):
        write_snapshot(manager.snapshots, snapshot.id, Busy())


async def test_names_that_mean_deletions_in_an_image_are_refused(manager: Manager, file: Path) -> None:
    sandbox = await on(manager, None)
    await sandbox.exec(["sh", "-c", "mkdir d; touch d/.wh.x"])
    with pytest.raises(Unsupported, match=r"\.wh\.x"):
        await manager.save((await sandbox.snapshot()).id, file)
    assert not file.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_what_the_user_cannot_read_is_not_opened_up_but_named(
    manager: Manager, repository: Path, file: Path
) -> None:
    (repository / "p").chmod(0)
    snapshot = await (await on(manager, repository)).snapshot()
    try:
        with pytest.raises(PermissionDenied, match="cannot be read"):
            await manager.save(snapshot.id, file)
        assert (repository / "p").stat().st_mode & 0o777 == 0
    finally:
        (repository / "p").chmod(0o755)
    assert not file.exists()


@pytest.mark.needs("root")
def test_whoever_owns_the_files_on_a_host_the_snapshot_is_the_same(place: Path, store: Snapshots, file: Path) -> None:
    """Also where an access control list calls the owner by his number."""
    snapshots = Snapshots(place / "data0" / "snapshots")
    with snapshots.draft() as draft:
        listed = draft.layer("workspace") / "listed"
        listed.touch()
        for path in (listed.parent, listed):
            os.chown(path, 4242, 4242)
        os.setxattr(listed, "system.posix_acl_access", access_list(4242))
        snapshot = snapshots.keep(draft, Base(), sandbox="another-user")
    save_snapshot(snapshots, snapshot.id, file)
    assert load_snapshot(store, file) == snapshot
    loaded = store.layer(snapshot, "workspace") / "listed"
    assert os.getxattr(loaded, "system.posix_acl_access") == access_list(loaded.stat().st_uid)
    assert loaded.stat().st_uid == LAYER_OWNER[0]


def access_list(uid: int) -> bytes:
    entries = ((1, 6, 2**32 - 1), (2, 4, uid), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# What a file may lie about. One is made whole, and then harmed.


@pytest.fixture
def store(place: Path) -> Snapshots:
    """Of an installation that has nothing."""
    return Snapshots(place / "data3" / "snapshots")


@pytest.fixture
def saved(place: Path, file: Path) -> bytes:
    """A file whose layers were made by hand, for a hand can make them anywhere."""
    source = place / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "x").write_text("x\n")
    (source / "a").write_bytes(random.Random(1).randbytes(3000))
    snapshots = Snapshots(place / "data0" / "snapshots")
    with snapshots.draft() as draft:
        workspace, tmp, home = [draft.layer(name) for name in ("workspace", "tmp", "home")]
        (workspace / "random").write_bytes(random.Random(2).randbytes(100_000))
        (workspace / "d").mkdir()
        os.setxattr(workspace / "d", "user.overlay.opaque", b"y")
        os.setxattr(workspace / "random", "user.x", b"\0\xff")
        os.mknod(workspace / "a", stat.S_IFCHR)
        (tmp / "t").write_text("t\n")
        os.link(tmp / "t", tmp / os.fsdecode(b"\xff"))
        (home / ".bashrc").write_text("h\n")
        (home / "link").symlink_to(".bashrc")
        os.mkfifo(home / "pipe")
        base = Base(path=str(source), fingerprint=inspect_lower(source).fingerprint)
        snapshot = snapshots.keep(draft, base, sandbox="by-hand", label="by hand")
    save_snapshot(snapshots, snapshot.id, file)
    return file.read_bytes()


def refuse(store: Snapshots, file: Path, data: bytes, *kinds: type[GloveportError], match: str = ".") -> str:
    file.write_bytes(data)
    with pytest.raises(kinds or InvalidRequest, match=match) as caught:
        load_snapshot(store, file)
    assert left(store) == []
    return caught.value.message


def test_a_flipped_byte_anywhere_is_refused(store: Snapshots, file: Path, saved: bytes) -> None:
    """In every document and layer, and in what says where they are; what pads a tar says nothing."""
    with tarfile.open(file) as tar:
        members = tar.getmembers()
    chance = random.Random(7)
    places = [place for member in members for place in (member.offset, member.offset + 124, member.offset + 150)]
    for member in members:
        if member.name.startswith("blobs/"):
            places += [member.offset_data + chance.randrange(member.size) for _ in range(4)]
            places += [member.offset_data, member.offset_data + member.size - 1]
    assert len(places) > 30
    for place in places:
        refuse(store, file, saved[:place] + bytes([saved[place] ^ 1 << chance.randrange(7)]) + saved[place + 1 :])
    file.write_bytes(saved)
    assert load_snapshot(store, file).entries


def test_a_file_that_was_cut_off_is_refused(store: Snapshots, file: Path, saved: bytes) -> None:
    end = len(saved) - 2 * tarfile.BLOCKSIZE
    chance = random.Random(8)
    for length in (
        0,
        1,
        511,
        512,
        513,
        1024,
        2048,
        end // 2,
        end - 512,
        *(chance.randrange(end - 512) for _ in range(12)),
    ):
        refuse(store, file, saved[:length])


def test_what_is_no_file_of_ours_is_refused(store: Snapshots, file: Path, saved: bytes) -> None:
    refuse(store, file, b"\0" * 20_000)
    refuse(store, file, b"hello\n" * 1000)
    refuse(store, file, saved[512:])
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    refuse(store, file, empty.getvalue(), match="no snapshot")
    for path, kind in (
        (Path("/dev/zero"), InvalidRequest),
        (file.parent, InvalidRequest),
        (file / "x", InvalidRequest),
    ):
        with pytest.raises(kind):
            load_snapshot(store, path)
    with pytest.raises(NotFound):
        load_snapshot(store, file.with_name("nothing"))
    assert left(store) == []


Change = Callable[[dict[str, bytes]], None]


def documents(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def forge(
    data: bytes, *, config: Mapping[str, object] = {}, record: Mapping[str, object] = {}, layers: object = None
) -> bytes:
    """The same file with other words in it, every digest made to fit. `layers`: what takes the last one's place."""
    found = documents(data)
    index = json.loads(found["index.json"])
    manifest = json.loads(found[name := _blob(index["manifests"][0])])
    said = json.loads(found[other := _blob(manifest["config"])])
    del found[name], found[other]
    said = {**said, **config, "gloveport": {**said["gloveport"], **record}}

    def put(blob: bytes) -> dict[str, object]:
        digest = sha256(blob).hexdigest()
        found[f"blobs/sha256/{digest}"] = blob
        return {"digest": f"sha256:{digest}", "size": len(blob)}

    if isinstance(layers, bytes):
        manifest["layers"][-1] |= put(layers)
    manifest["config"] |= put(json.dumps(said).encode())
    index["manifests"][0] |= put(json.dumps(manifest).encode())
    found["index.json"] = json.dumps(index).encode()
    return _tar(found)


def _blob(descriptor: Mapping[str, str]) -> str:
    return "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")


def _tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def test_other_words_with_digests_that_fit_are_refused(store: Snapshots, file: Path, saved: bytes) -> None:
    file.write_bytes(forge(saved))
    assert load_snapshot(store, file).label == "by hand"
    remove_tree(store.root)
    layers = json.loads(json.dumps(_record(saved)["layers"]))
    refuse(store, file, forge(saved, record={"format": 2}), Unsupported, match="format is 2")
    newer = {**documents(saved), "oci-layout": b'{"imageLayoutVersion": "2.0.0"}'}
    refuse(store, file, _tar(newer), Unsupported, match=r"2\.0\.0")
    refuse(store, file, forge(saved, config={"gloveport": None}, record={}).replace(b'"gloveport"', b'"glovepart"'))
    for record in (
        {"id": "sha256:" + "0" * 64},
        {"is_covered": True},
        {"created_at": float("nan")},
        {"created_at": 1e300},
        {"created_at": "now"},
        {"layers": layers[1:]},
        {"layers": layers + layers[-1:]},
        {"layers": []},
        {"layers": 3},
        {"layers": [*layers[:-1], {**layers[-1], "name": "../../x"}]},
        {"layers": [*layers[:-1], {**layers[-1], "digest": "0" * 64}]},
        {"layers": [*layers[:-1], {**layers[-1], "entries": 10**400}]},
        {"label": {}, "layers": [[]]},
    ):
        refuse(store, file, forge(saved, record=record))
    wrong = documents(saved)
    name = next(name for name in wrong if name.startswith("blobs/"))
    for harmed in ({**wrong, name: b"[" * 100_000}, {**wrong, name: b"\xff"}, {**wrong, "index.json": b"[]"}):
        refuse(store, file, _tar(harmed))
    del wrong[name]
    refuse(store, file, _tar(wrong), match="cut off")


def _record(data: bytes) -> dict[str, object]:
    found = documents(data)
    manifest = json.loads(found[_blob(json.loads(found["index.json"])["manifests"][0])])
    said: dict[str, object] = json.loads(found[_blob(manifest["config"])])["gloveport"]
    return said


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, *, target: str = "", data: bytes = b"", **pax: str
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size, made.mode = kind, target, len(data), 0o777
    made.pax_headers = {keyword.replace("__", "."): text for keyword, text in pax.items()}
    return made, data


HOME = entry("home/guest", tarfile.DIRTYPE)
HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "upwards": [HOME, entry("home/guest/../../../../escaped", data=b"x")],
    "upwards alone": [HOME, entry("home/guest/..", tarfile.DIRTYPE)],
    "absolute": [HOME, entry("/{place}/escaped", data=b"x")],
    "absolute in a header": [HOME, entry("home/guest/x", data=b"x", path="/{place}/escaped")],
    "elsewhere": [HOME, entry("workspace/x", data=b"x")],
    "doubled slash": [HOME, entry("home/guest//{place}/escaped", data=b"x")],
    "through a link": [
        HOME,
        entry("home/guest/l", tarfile.SYMTYPE, target="{place}"),
        entry("home/guest/l/escaped", data=b"x"),
    ],
    "a link, and again as a directory": [
        HOME,
        entry("home/guest/l", tarfile.SYMTYPE, target="{place}"),
        entry("home/guest/l", tarfile.DIRTYPE),
        entry("home/guest/l/escaped", data=b"x"),
    ],
    "a directory, and again as a link": [
        HOME,
        entry("home/guest/l", tarfile.DIRTYPE),
        entry("home/guest/l", tarfile.SYMTYPE, target="{place}"),
        entry("home/guest/l/escaped", data=b"x"),
    ],
    "over a link": [
        HOME,
        entry("home/guest/l", tarfile.SYMTYPE, target="{place}/escaped"),
        entry("home/guest/l", data=b"x"),
    ],
    "the directory itself as a link": [
        entry("home/guest", tarfile.SYMTYPE, target="{place}"),
        entry("home/guest/escaped"),
    ],
    "a hard link outwards": [HOME, entry("home/guest/l", tarfile.LNKTYPE, target="/etc/passwd")],
    "a hard link upwards": [HOME, entry("home/guest/l", tarfile.LNKTYPE, target="home/guest/../../../secret")],
    "a hard link to a link": [
        HOME,
        entry("home/guest/l", tarfile.SYMTYPE, target="/etc/passwd"),
        entry("home/guest/m", tarfile.LNKTYPE, target="home/guest/l"),
    ],
    "a hard link through a link": [
        HOME,
        entry("home/guest/l", tarfile.SYMTYPE, target="/etc"),
        entry("home/guest/m", tarfile.LNKTYPE, target="home/guest/l/passwd"),
    ],
    "a hard link to itself": [HOME, entry("home/guest/l", tarfile.LNKTYPE, target="home/guest/l")],
    "a device": [HOME, entry("home/guest/null", tarfile.CHRTYPE)],
    "a disk": [HOME, entry("home/guest/disk", tarfile.BLKTYPE)],
    "another type": [HOME, entry("home/guest/x", b"Z", data=b"x")],
    "contiguous": [HOME, entry("home/guest/x", tarfile.CONTTYPE, data=b"x")],
    "sparse": [HOME, entry("home/guest/x", data=b"x", GNU__sparse__map="0,1", GNU__sparse__size="99999999999")],
    "covers the directory": [HOME, entry("home/guest/.wh..")],
    "covers the one above": [HOME, entry("home/guest/.wh...")],
    "covers nothing": [HOME, entry("home/guest/.wh.")],
    "a whiteout with content": [HOME, entry("home/guest/.wh.x", data=b"x")],
    "a whiteout of a whiteout": [HOME, entry("home/guest/.wh..wh.x")],
    "an empty link": [HOME, entry("home/guest/x", tarfile.SYMTYPE, target="")],
    "a nul": [HOME, entry("home/guest/x", data=b"x", path="home/guest/a\0b")],
    "a long name": [HOME, entry("home/guest/" + "n" * 256)],
    "a long path": [HOME, entry("home/guest/" + "n/" * 2100 + "n")],
    "no time": [HOME, entry("home/guest/x", mtime="nan")],
    "a time out of time": [HOME, entry("home/guest/x", mtime="999999999999999999")],
    "a capability": [HOME, entry("home/guest/x", SCHILY__xattr__security__capability="\x01\0\0\x02" + "\0" * 16)],
    "another overlay's mark": [HOME, entry("home/guest/x", SCHILY__xattr__user__overlay__redirect="/etc")],
    "an attribute of a pipe": [HOME, entry("home/guest/x", tarfile.FIFOTYPE, SCHILY__xattr__user__x="1")],
    "no such list": [HOME, entry("home/guest/x", SCHILY__xattr__system__posix_acl_access="x")],
    "no directory": [],
    "twice": [HOME, HOME],
    "one more file": [HOME, entry("home/guest/x", data=b"x")],
}


SEEN_BY_THE_DIGEST_ALONE = ("a time out of time", "one more file")


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_layer_that_reaches_out_is_refused_and_nothing_is_left(
    store: Snapshots, file: Path, saved: bytes, place: Path, attack: str
) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for made, data in HOSTILE[attack]:
            aimed = copy.copy(made)
            aimed.name = made.name.replace("{place}", str(place).lstrip("/"))
            aimed.linkname = made.linkname.replace("{place}", str(place))
            aimed.pax_headers = {
                key: text.replace("{place}", str(place).lstrip("/")) for key, text in made.pax_headers.items()
            }
            tar.addfile(aimed, io.BytesIO(data))
    (place / "secret").write_text("secret")
    with store.in_use():
        before = sorted(str(path) for path in place.rglob("*") if "data3/snapshots" not in str(path))
    message = refuse(store, file, forge(saved, layers=layer.getvalue()), InvalidRequest, LimitExceeded)
    assert ("not the snapshot that it says" in message) == (attack in SEEN_BY_THE_DIGEST_ALONE), message
    assert sorted(str(path) for path in place.rglob("*") if "data3/snapshots" not in str(path)) == before
    assert os.stat(place / "secret").st_nlink == 1


def test_headers_without_end_are_refused(store: Snapshots, file: Path, saved: bytes) -> None:
    def header(size: int, kind: bytes) -> bytes:
        made = tarfile.TarInfo("x")
        made.size, made.type = size, kind
        return made.tobuf(tarfile.GNU_FORMAT)

    chain = header(512, tarfile.XHDTYPE) + b"11 x=12345\n".ljust(512, b"\0")
    refuse(store, file, forge(saved, layers=chain * 5000))
    huge = header(40 * 2**20, tarfile.XHDTYPE) + bytes(40 * 2**20)
    refuse(store, file, forge(saved, layers=huge))
    refuse(store, file, forge(saved, layers=header(-512, b"Z") * 3))
    refuse(store, file, chain * 5000)
    refuse(store, file, huge)


def test_random_harm_to_a_layer_never_makes_another_snapshot(store: Snapshots, file: Path, saved: bytes) -> None:
    """Digests that fit a harmed layer: what was made of it is read once more."""
    found = documents(saved)
    manifest = json.loads(found[_blob(json.loads(found["index.json"])["manifests"][0])])
    layer = found[_blob(manifest["layers"][-1])]
    right = _record(saved)["id"]
    chance = random.Random(9)
    for _ in range(150):
        harmed = bytearray(layer)
        for _ in range(chance.choice((1, 1, 4))):
            harmed[chance.randrange(len(harmed))] = chance.randrange(256)
        file.write_bytes(forge(saved, layers=bytes(harmed)))
        try:
            assert load_snapshot(store, file).id == right
            remove_tree(store.root)
        except GloveportError:
            assert left(store) == []


def test_a_full_disk_leaves_nothing(place: Path, store: Snapshots, file: Path, saved: bytes) -> None:
    with files_no_larger_than(50_000):
        with pytest.raises(LimitExceeded):
            load_snapshot(store, file)
        with pytest.raises(LimitExceeded):
            save_snapshot(Snapshots(place / "data0" / "snapshots"), "by hand", file.with_name("more.tar"))
    assert left(store) == []
    assert not [path for path in file.parent.iterdir() if "more" in path.name]


# The command line.


@pytest.fixture
def other(cli: Cli, place: Path) -> Iterator[Cli]:
    command = replace(cli, settings=replace(cli.settings, state=place / "state2", data=place / "data2"))
    yield command
    command.ok("runner", "stop")


def test_a_snapshot_goes_from_one_installation_to_another_by_command(
    cli: Cli, other: Cli, repository: Path, file: Path
) -> None:
    name = cli.create("--repo", str(repository))
    cli.ok("exec", name, "--", "sh", "-c", "echo saved > new")
    cli.ok("snapshot", name, "--label", "good")
    told = json.loads(cli.ok("save", "good", str(file), "--json"))
    assert told["bytes"] == file.stat().st_size
    piped = cli("save", "good", "-").stdout
    assert piped == file.read_bytes()
    remove_tree(repository)
    loaded = other.ok("load", str(file)).strip()
    assert loaded == told["id"] == other.ok("load", "-", given=piped).strip()
    assert json.loads(other.ok("load", "/dev/stdin", "--json", given=piped))["id"] == loaded
    assert "(its own)" in other.ok("snapshots")
    restored = other.ok("restore", "good").strip()
    assert other.ok("exec", restored, "--", "cat", "new", "a") == "saved\nfirst\n"
    assert "+saved" in other.ok("diff", restored)
    assert other.ok("prune", "--all") == ""
    other.ok("rm", restored)
    assert other.ok("prune", "--all").strip() == loaded


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("save", "nothing", "{place}/x"), 4),
        (("load", "{place}/x"), 4),
        (("load", "{place}"), 2),
        (("load", "/dev/zero"), 2),
        (("load", "-"), 2),
    ],
)
def test_what_cannot_be_is_said(cli: Cli, place: Path, words: tuple[str, ...], status: int) -> None:
    done = cli(*(word.format(place=place) for word in words))
    assert (done.returncode, b"next: " in done.stderr) == (status, True)
    assert not (place / "x").exists()


def test_no_device_is_replaced_by_a_file(cli: Cli, place: Path) -> None:
    name = cli.create()
    snapshot = cli.ok("snapshot", name).strip()
    pipe = place / "pipe"
    os.mkfifo(pipe)
    done = cli("save", snapshot, str(pipe))
    assert done.returncode == 2
    assert pipe.is_fifo()


def test_a_load_that_is_killed_leaves_nothing_after_the_next_command(cli: Cli, other: Cli, file: Path) -> None:
    name = cli.create()
    cli.ok("exec", name, "--", "sh", "-c", "for n in $(seq 5000); do echo $n > $n; done")
    cli.ok("save", cli.ok("snapshot", name).strip(), str(file))
    root = other.settings.data / "snapshots"
    loading = other.start("load", str(file))
    until = time.monotonic() + PATIENCE
    while not any(root.glob("new-*/layers/workspace/1*")):
        assert time.monotonic() < until
        os.sched_yield()
    loading.send_signal(signal.SIGKILL)
    loading.communicate(timeout=PATIENCE)
    assert left(Snapshots(root)) != []
    assert other("load", "/dev/null").returncode == 2
    assert left(Snapshots(root)) == []
    assert json.loads(other.ok("snapshots", "--json")) == []
