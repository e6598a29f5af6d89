"""The handle: what people can do with one sandbox."""

from __future__ import annotations

import hashlib
import os
import resource
import select
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import anyio
import pytest

from gloveport import blocking_sandbox
from gloveport.backends.bubblewrap import watch
from gloveport.backends.bubblewrap.backend import BubblewrapBackend
from gloveport.backends.bubblewrap.disk import disk_usage
from gloveport.errors import (
    BackendUnavailable,
    Conflict,
    GloveportError,
    InvalidRequest,
    NotFound,
    PolicyDenied,
    Unsupported,
)
from gloveport.model import (
    MIB,
    EventKind,
    ExecRequest,
    FileType,
    Grep,
    Limits,
    Match,
    SandboxState,
    Source,
    Spec,
    TerminalSize,
    WatchEvent,
)
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings
from gloveport.store import make_private, read_trail

pytestmark = pytest.mark.anyio


@pytest.fixture
def repository(make_repository: Callable[[Mapping[str, str]], Path]) -> Path:
    return make_repository({"a.txt": "one\ntwo\n", ".gitignore": "*.log\n", "sub/b.py": "import os\n"})


@pytest.fixture
async def on_repository(manager: Manager, repository: Path) -> Sandbox:
    return Sandbox(await manager.create(Spec(source=Source(repo=str(repository)))))


async def until(condition, seconds: float = 30.0) -> None:
    """Ask again and again: for what only the outside world announces."""
    with anyio.fail_after(seconds):
        while not await condition():
            await anyio.sleep(0.02)


async def test_exec_takes_input_and_gives_both_streams_and_the_exit(sandbox: Sandbox) -> None:
    done = await sandbox.exec(shell_request("cat; echo oops >&2; exit 4"), input=b"hello")
    assert (done.stdout, done.stderr, done.exit.code, done.ok) == (b"hello", b"oops\n", 4, False)
    assert (await sandbox.exec(["true"])).ok


async def test_cancelling_an_exec_kills_its_tree_and_the_sandbox_answers(sandbox: Sandbox) -> None:
    with anyio.move_on_after(0.3):
        await sandbox.exec(shell_request("(setsid sleep 987 &); sleep 988"))
    left = await sandbox.exec(shell_request("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))
    assert "sleep 98" not in left.text


async def test_files_are_read_by_range_of_lines(sandbox: Sandbox) -> None:
    await sandbox.files.write("dir/x.txt", "".join(f"line {n}\n" for n in range(1, 11)))
    assert await sandbox.files.read_lines("dir/x.txt", 3, 4) == ["line 3\n", "line 4\n"]
    assert await sandbox.files.read_lines("dir/x.txt", 10) == ["line 10\n"]
    assert await sandbox.files.read_text("/workspace/dir/x.txt") != ""
    with pytest.raises(InvalidRequest):
        await sandbox.files.read_lines("dir/x.txt", 0)


async def test_files_are_listed_with_every_kind_and_any_name(sandbox: Sandbox) -> None:
    await sandbox.exec(shell_request("mkdir d; touch 'd/new\nline' $'d/\\xff'; ln -s nowhere d/link; mkfifo d/pipe"))
    listed = {entry.path: entry for entry in await sandbox.files.list("d")}
    assert set(listed) == {"new\nline", "\udcff", "link", "pipe"}
    assert listed["link"].type is FileType.SYMLINK
    assert listed["link"].target == "nowhere"
    assert listed["pipe"].type is FileType.FIFO
    assert (await sandbox.files.stat("d")).type is FileType.DIRECTORY
    assert await sandbox.files.exists("d/link")
    assert not await sandbox.files.exists("d/nowhere")


async def test_files_are_removed_renamed_and_made(sandbox: Sandbox) -> None:
    await sandbox.files.mkdir("p/q")
    await sandbox.files.write("p/q/f", b"x")
    await sandbox.files.rename("p/q/f", "p/g")
    with pytest.raises(GloveportError):
        await sandbox.files.remove("p")
    await sandbox.files.remove("p", recursive=True)
    with pytest.raises(NotFound):
        await sandbox.files.stat("p")


async def test_writing_elsewhere_is_denied_and_recorded(sandbox: Sandbox, settings: Settings) -> None:
    for path in ("/etc/passwd", "../../usr/bin/x"):
        with pytest.raises(PolicyDenied):
            await sandbox.files.write(path, b"")
    (trail,) = (settings.data / "audit").iterdir()
    decisions = [event for event in read_trail(trail) if event.kind == "decision"]
    assert [event.data["verdict"] for event in decisions] == ["deny", "deny"]


async def test_links_of_the_guest_never_reach_the_host(sandbox: Sandbox, place: Path) -> None:
    (place / "secret").write_text("of the host")
    await sandbox.exec(["ln", "-s", str(place / "secret"), "/workspace/link"])
    with pytest.raises(NotFound):
        await sandbox.files.read("link")
    await sandbox.files.write("link", b"overwritten")
    assert await sandbox.files.read("link") == b"overwritten", "in the guest's own /tmp"
    assert (place / "secret").read_text() == "of the host"


async def test_changes_below_a_directory_are_watched(sandbox: Sandbox) -> None:
    with anyio.fail_after(30):
        async with sandbox.files.watch(".") as events:
            await sandbox.files.write("seen.txt", b"x")
            async for event in events:
                if "seen.txt" in event.path:
                    break


async def test_search_finds_by_expression_and_leaves_git_out(on_repository: Sandbox) -> None:
    assert await on_repository.search(Grep(pattern="^t.o$")) == [Match(path="a.txt", line=2, text="two")]
    assert await on_repository.search(Grep(pattern="it's")) == []
    assert await on_repository.search(Grep(pattern="-import")) == []
    assert [m.path for m in await on_repository.search(Grep(pattern="IMPORT", ignore_case=True, glob="*.py"))] == [
        "sub/b.py"
    ]
    with pytest.raises(InvalidRequest):
        await on_repository.search(Grep(pattern="("))
    with pytest.raises(NotFound):
        await on_repository.search(Grep(pattern="x", path="none"))


async def test_git_runs_in_the_guest(on_repository: Sandbox) -> None:
    assert "first" in await on_repository.git.log()
    await on_repository.files.write("a.txt", "one\n")
    assert "M a.txt" in await on_repository.git.status()
    assert "-two" in await on_repository.git.diff()
    with pytest.raises(InvalidRequest):
        await on_repository.git.diff("no-such-revision")


async def test_without_a_repository_git_says_so(sandbox: Sandbox) -> None:
    with pytest.raises(NotFound):
        await sandbox.git.status()


async def test_the_diff_leaves_out_what_git_ignores(on_repository: Sandbox) -> None:
    await on_repository.exec(shell_request("echo x > ignored.log; echo y > kept.txt; rm sub/b.py"))
    assert {entry.path for entry in (await on_repository.diff()).paths} == {"kept.txt", "sub/b.py"}
    assert "ignored.log" in {entry.path for entry in (await on_repository.diff(ignored=True)).paths}


async def test_the_source_is_never_written(on_repository: Sandbox, repository: Path) -> None:
    before = sorted((path, path.lstat().st_mtime_ns) for path in repository.rglob("*"))
    await on_repository.exec(shell_request("rm -rf .git a.txt; echo x >> sub/b.py; chmod 777 sub; mkdir new"))
    assert sorted((path, path.lstat().st_mtime_ns) for path in repository.rglob("*")) == before


async def test_a_shell_keeps_directory_variables_and_functions(sandbox: Sandbox) -> None:
    async with sandbox.shell() as shell:
        await shell.exec("mkdir -p d; cd d; X=5; f() { echo f$X; }")
        assert (await shell.exec("pwd; f; false")).text == "/workspace/d\nf5\n"
        assert (await shell.exec("(exit 3)")).exit.code == 3
        assert (await shell.exec("cat; echo no newline at end | tr -d '\\n'")).text == "no newline at end"
        assert (await shell.exec("echo out; echo err >&2")).stderr == b"err\n"


async def test_a_shell_survives_a_timeout_a_syntax_error_and_its_own_exit(sandbox: Sandbox) -> None:
    async with sandbox.shell() as shell:
        await shell.exec("X=5")
        late = await shell.exec("sleep 100", timeout=0.3)
        assert late.exit.timed_out
        assert (await shell.exec("echo $X")).text == "5\n"
        assert (await shell.exec("if (")).exit.code == 2
        stubborn = await shell.exec("trap '' INT; while :; do sleep 1; done", timeout=0.3)
        assert stubborn.exit.timed_out
        assert shell.restarted
        assert (await shell.exec("echo [$X]")).text == "[]\n"
        assert (await shell.exec("exit 9")).exit.code == 9
        assert (await shell.exec("echo back")).text == "back\n"


async def test_a_shell_returns_large_and_binary_output_up_to_its_cap(sandbox: Sandbox) -> None:
    async with sandbox.shell() as shell:
        big = await shell.exec("head -c 3000000 /dev/urandom", output_bytes=1000)
        assert len(big.stdout) == 1000
        assert big.exit.dropped_stdout == 2_999_000


async def test_a_terminal_is_a_terminal(sandbox: Sandbox) -> None:
    process = await sandbox.pty(
        ("/bin/bash", "--norc", "-c", "tty; stty size; read x; echo got $x"), TerminalSize(20, 70)
    )
    await process.send(b"word\n")
    seen = b""
    async for chunk in process:
        seen += chunk.data
    assert (await process.wait()).ok
    assert b"/dev/pts/0" in seen
    assert b"20 70" in seen
    assert b"got word" in seen


async def test_a_server_in_the_background_is_reached_by_the_next_exec(sandbox: Sandbox) -> None:
    await sandbox.files.write("index.html", "served\n")
    async with sandbox.background(["python3", "-u", "-m", "http.server", "8765", "--bind", "127.0.0.1"]) as server:
        await server.until(b"Serving HTTP")
        fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8765/index.html').read().decode())"
        assert "served" in (await sandbox.exec(["python3", "-c", fetch])).text
    assert not (await sandbox.exec(["python3", "-c", fetch])).ok


async def test_a_closed_input_is_a_conflict(sandbox: Sandbox) -> None:
    process = await sandbox.start(ExecRequest(argv=("cat",), stdin=True))
    await process.close_stdin()
    with pytest.raises(Conflict):
        await process.send(b"late")
    await process.wait()


async def test_a_workspace_that_outgrows_its_disk_limit_loses_its_writer_and_says_so(manager: Manager) -> None:
    sandbox = Sandbox(await manager.create(Spec(limits=Limits(disk_bytes=20 * MIB))))
    filling = "i=0; while :; do head -c 4M /dev/zero > part$i; i=$((i+1)); sleep 0.05; done"
    full = await sandbox.exec(shell_request(filling, timeout=60))
    assert full.exit.disk_full
    assert not full.ok
    assert (await sandbox.exec(shell_request("rm part*; echo tidy"))).text == "tidy\n"
    single = await sandbox.exec(shell_request("head -c 40M /dev/zero > one"))
    assert not single.ok


HOGS = {
    "many small files": "open(f'part{i}', 'w').write('x')",
    "empty files": "open(f'part{i}', 'w')",
    "directories": "os.mkdir(f'part{i}')",
    "links": "os.symlink('x', f'part{i}')",
    "removed files that are open": "g = open('g', 'w'); os.unlink('g'); kept.append(g); g.write('x' * 40960)",
}


@pytest.mark.parametrize("act", HOGS.values(), ids=HOGS)
async def test_every_way_to_take_disk_ends_at_the_limit(manager: Manager, act: str) -> None:
    sandbox = Sandbox(await manager.create(Spec(limits=Limits(disk_bytes=4 * MIB))))
    program = f"""
import os, time
kept = []
for i in range(3000):
    try:
        {act}
    except OSError:
        pass
time.sleep(600)
"""
    full = await sandbox.exec(ExecRequest(argv=("python3", "-c", program), timeout=60))
    assert full.exit.disk_full, full
    assert (await sandbox.exec(shell_request("rm -rf part*; echo tidy"))).text == "tidy\n"


async def test_a_sandbox_whose_watch_fails_has_failed_and_says_so_and_no_other(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox, other = Sandbox(await manager.create(Spec())), Sandbox(await manager.create(Spec()))
    unlucky = sandbox._backend._backend._sandboxes[sandbox.id].place.upper

    def measure(directory: Path, *words: object, **more: object) -> int:
        if directory == unlucky:
            raise RuntimeError("no measure")
        return disk_usage(directory, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "disk_usage", measure)

    async def failed() -> bool:
        return (await sandbox.status()).state is SandboxState.FAILED

    await until(failed)
    assert "no measure" in (await sandbox.status()).reason
    with pytest.raises(BackendUnavailable, match="no measure"):
        await sandbox.exec(["true"])
    assert (await other.exec(["true"])).ok
    await sandbox.delete()


async def test_a_host_that_cannot_measure_for_a_moment_ends_no_sandbox(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0

    def measure(directory: Path, *words: object, **more: object) -> int:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise OSError(24, "Too many open files")
        return disk_usage(directory, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "disk_usage", measure)

    async def failed_twice() -> bool:
        return failures == 2

    await until(failed_twice)
    assert (await sandbox.exec(["true"])).ok


async def test_a_host_that_can_measure_no_more_ends_the_sandbox(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*words: object, **more: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watch, "disk_usage", measure)

    async def failed() -> bool:
        return (await sandbox.status()).state is SandboxState.FAILED

    await until(failed)
    assert "cannot be measured: Too many open files" in (await sandbox.status()).reason


async def test_a_scope_frees_every_sandbox_even_if_one_cannot_be_ended(settings: Settings) -> None:
    plans = []
    async with Manager(settings) as manager:
        plans = [await manager.plan(Spec()) for _ in range(3)]
    backend = BubblewrapBackend(settings.state)
    with pytest.raises(OSError, match="not permitted"):  # noqa: PT012 - the scope is what is tested
        async with backend:
            guests = []
            for plan in plans:
                await backend.create(plan)
                guests.append(os.dup(backend._sandboxes[plan.sandbox].launched._handles[1]))
            with open("/dev/null", "rb") as nothing:  # closed, its number could become another file's
                os.dup2(nothing.fileno(), backend._sandboxes[plans[1].sandbox].launched._handles[1], inheritable=False)
    for guest in guests:
        with anyio.fail_after(60):
            await anyio.wait_readable(guest)
        os.close(guest)
    assert list((settings.state / "sandboxes").iterdir()) == []
    assert list((settings.state / "trash").iterdir()) == []


async def test_a_directory_that_cannot_be_removed_is_told_and_swept_later(manager: Manager, settings: Settings) -> None:
    sandbox = Sandbox(await manager.create(Spec()))
    trash = settings.state / "trash"
    make_private(trash).rmdir()
    trash.write_text("in the way")
    with pytest.raises(BackendUnavailable, match="trash"):
        await sandbox.delete()
    trash.unlink()
    await manager.sweep()
    assert list((settings.state / "sandboxes").iterdir()) == []


async def test_a_sandbox_ends_with_its_wall_time_and_keeps_its_changes(manager: Manager) -> None:
    sandbox = Sandbox(await manager.create(Spec(limits=Limits(sandbox_seconds=5, exec_seconds=1))))
    await sandbox.files.write("kept.txt", b"kept\n")

    async def stopped() -> bool:
        return (await sandbox.status()).state is SandboxState.STOPPED

    await until(stopped)
    assert (await sandbox.status()).reason == "timeout"
    with pytest.raises(BackendUnavailable) as caught:
        await sandbox.exec(["true"])
    assert "gloveport diff" in caught.value.hint
    assert b"+kept" in (await sandbox.diff()).data


async def test_a_sandbox_whose_guest_was_killed_from_outside_has_failed_and_says_so(sandbox: Sandbox) -> None:
    launched = sandbox._backend._backend._sandboxes[sandbox.id].launched
    signal.pidfd_send_signal(launched._handles[1], signal.SIGKILL)

    async def failed() -> bool:
        return (await sandbox.status()).state is SandboxState.FAILED

    await until(failed)
    with pytest.raises(BackendUnavailable):
        await sandbox.exec(["true"])
    await sandbox.delete()


async def test_deleting_waits_for_the_guest_even_if_bubblewraps_outer_process_was_killed(sandbox: Sandbox) -> None:
    launched = sandbox._backend._backend._sandboxes[sandbox.id].launched
    outer, guestd = launched._handles
    guest = os.dup(guestd)
    signal.pidfd_send_signal(guest, signal.SIGSTOP)
    signal.pidfd_send_signal(outer, signal.SIGKILL)
    with anyio.fail_after(60):
        await sandbox.delete()
    ended, _, _ = select.select([guest], [], [], 0)
    assert ended, "guestd has ended, whoever has to reap it"
    os.close(guest)


async def test_limits_that_this_host_cannot_keep_refuse_to_start(manager: Manager) -> None:
    if manager.probes()[0].limits["cpus"] != "missing":
        done = Sandbox(await manager.create(Spec(limits=Limits(cpus=0.5))))
        await done.delete()
        return
    with pytest.raises(Unsupported) as caught:
        await manager.create(Spec(limits=Limits(cpus=0.5)))
    assert "Delegate" in caught.value.hint
    assert await manager.statuses() == []


async def test_a_language_of_the_host_works_inside(manager: Manager) -> None:
    sandbox = Sandbox(await manager.create(Spec(language="python")))
    assert (await sandbox.exec(["python3", "-c", "print(6*7)"])).text == "42\n"
    await sandbox.require("python3")
    with pytest.raises(NotFound):
        await sandbox.require("no-such-program")


async def test_an_image_is_a_root_file_system_of_its_own(manager: Manager, place: Path) -> None:
    image = place / "image"
    for name in ("usr/bin", "etc"):
        (image / name).mkdir(parents=True)
    guestd = Path(__file__).resolve().parents[2] / "src/gloveport/guest/bin/guestd"
    (image / "usr/bin/tool").write_bytes(guestd.read_bytes())
    (image / "usr/bin/tool").chmod(0o755)
    (image / "etc/mark").write_text("of the image")
    sandbox = Sandbox(await manager.create(Spec(image=str(image))))
    assert await sandbox.files.read_text("/etc/mark") == "of the image"
    assert (await sandbox.exec(["/bin/sh"])).exit.code == 127
    assert (await sandbox.exec(["/usr/bin/tool", "-x"])).exit.code == 64


async def test_nothing_starts_unsandboxed_when_bubblewrap_cannot_work(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gloveport.backends.bubblewrap.helpers.find_bwrap", lambda: None)
    async with Manager(settings) as manager:
        with pytest.raises(BackendUnavailable) as caught:
            await manager.create(Spec())
        assert "reinstall" in caught.value.hint
        assert await manager.statuses() == []


def test_code_without_an_event_loop_has_the_same_handle(settings: Settings) -> None:
    with blocking_sandbox(Spec(), settings=settings) as sandbox:
        sandbox.files.write("x.txt", "blocking\n")
        assert sandbox.exec(["cat", "x.txt"]).text == "blocking\n"
        with sandbox.shell() as shell:
            shell.exec("cd /tmp")
            assert shell.exec("pwd").text == "/tmp\n"
        with pytest.raises(NotFound):
            sandbox.files.read("none")


async def test_a_callers_error_leaves_the_scope_as_it_is_and_nothing_behind(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the scope is what is tested
        async with Sandbox.create(settings=settings) as sandbox:
            assert sandbox.id
            _ = 1 / 0
    assert list((settings.state / "sandboxes").iterdir()) == []


FILL = """
import time
open("/tmp/begun", "w")
for i in range(10**6):
    open(f"part{i}", "wb").write(bytes(4 << 20))
    time.sleep(0.05)
"""
DIG = """
import os
for _ in range(40):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
"""


@pytest.mark.parametrize("program", [FILL, DIG + FILL], ids=["in the workspace", "deeper than a path is long"])
async def test_a_writer_left_in_the_background_is_killed_beyond_the_disk_limit(manager: Manager, program: str) -> None:
    sandbox = Sandbox(await manager.create(Spec(limits=Limits(disk_bytes=40 * MIB))))
    await sandbox.files.write("fill.py", program.encode())
    started = await sandbox.exec(shell_request("setsid python3 fill.py > /dev/null 2>&1 < /dev/null &"))
    assert started.ok

    async def killed() -> bool:
        return "fill.py" not in (await sandbox.exec(shell_request("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))).text

    await until(killed, 60)
    assert (await sandbox.exec(["test", "-e", "/tmp/begun"])).ok


async def test_a_search_passes_over_what_it_cannot_read(sandbox: Sandbox) -> None:
    closed = "mkdir -p closed open; echo needle > closed/a; echo needle > open/b; chmod 0 closed"
    assert (await sandbox.exec(shell_request(closed))).ok
    try:
        assert await sandbox.search(Grep(pattern="needle")) == [Match(path="open/b", line=1, text="needle")]
        assert await sandbox.search(Grep(pattern="nowhere")) == []
        with pytest.raises(NotFound):
            await sandbox.search(Grep(pattern="needle", path="none"))
    finally:
        await sandbox.exec(shell_request("chmod 700 closed"))


async def test_a_shell_holds_no_more_of_an_output_than_it_returns(sandbox: Sandbox) -> None:
    size = 300 * MIB
    before = peak_memory()
    async with sandbox.shell() as shell:
        big = await shell.exec(f"head -c {size} /dev/zero; echo end >&2", output_bytes=1000)
        assert (len(big.stdout), big.exit.dropped_stdout, big.stderr) == (1000, size - 1000, b"end\n")
        assert (await shell.exec("printf '\\n\\n'; printf x")).stdout == b"\n\nx"
    assert peak_memory() - before < 150 * MIB


def peak_memory() -> int:
    """Bytes this process had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_a_guest_that_plays_with_its_shell_gets_a_new_one(sandbox: Sandbox) -> None:
    with anyio.fail_after(60):
        async with sandbox.shell() as shell:
            assert (await shell.exec("printf() { command printf 'nonsense\\n'; }; X=5; echo a")).text == "a\n"
            assert (await shell.exec("echo $X")).text == "5\n"
            assert not shell.restarted
            forged = r"""builtin() { command printf '\n%snonsense\n' "$3"; }"""
            cut = await shell.exec(forged, timeout=20)
            assert (cut.exit.code, cut.exit.signal, shell.restarted) == (None, 9, True)
            assert (await shell.exec("echo [$X]")).text == "[]\n"


@pytest.mark.parametrize("bounds", [{"timeout": float("nan")}, {"timeout": -1}, {"output_bytes": -1}])
async def test_a_shell_refuses_bounds_that_mean_nothing(sandbox: Sandbox, bounds: dict[str, float]) -> None:
    async with sandbox.shell() as shell:
        with pytest.raises(InvalidRequest):
            await shell.exec("true", **bounds)


async def test_the_trail_lists_a_thousand_changes_and_counts_the_rest(sandbox: Sandbox, settings: Settings) -> None:
    await sandbox.exec(shell_request("for i in $(seq 1500); do : > f$i; done"))
    found = await sandbox.changes(ignored=True)
    paths = b"".join(change.path.encode() + b"\0" for change in found.changes)
    (trail,) = (settings.data / "audit").iterdir()
    (event,) = [event for event in read_trail(trail) if event.kind is EventKind.CHANGES]
    assert (len(event.data["changes"]), event.data["total"]) == (1000, 1500)
    assert event.data["sha256"] == hashlib.sha256(paths).hexdigest()


@pytest.fixture
async def hasty(manager: Manager) -> Sandbox:
    """A sandbox whose execs have little time and little output unless they say otherwise."""
    return Sandbox(await manager.create(Spec(limits=Limits(exec_seconds=0.5, output_bytes=100))))


async def use_up_an_execs_time(sandbox: Sandbox) -> None:
    """Whatever was started before and had an exec's time is over afterwards."""
    with anyio.fail_after(30):
        assert (await sandbox.exec(["sleep", "1000"])).exit.timed_out


async def test_a_shell_lives_as_long_as_its_sandbox_and_its_commands_as_long_as_an_exec(hasty: Sandbox) -> None:
    async with hasty.shell() as shell:
        await shell.exec("X=5")
        await use_up_an_execs_time(hasty)
        with anyio.fail_after(30):
            assert (await shell.exec("echo $X")).text == "5\n"
            assert (await shell.exec("sleep 1000")).exit.timed_out
            assert (await shell.exec("echo $X; head -c 300 /dev/zero")).stdout == b"5\n" + bytes(98)
            assert (await shell.exec("head -c 300 /dev/zero", output_bytes=200)).stdout == bytes(200)
        assert not shell.restarted


async def test_a_terminal_lives_as_long_as_its_sandbox_unless_told_otherwise(hasty: Sandbox) -> None:
    brief = await hasty.pty(("/bin/cat",), timeout=0.1)
    process = await hasty.pty(("/bin/cat",))
    await use_up_an_execs_time(hasty)
    await process.send(b"still here\n")
    seen = b""
    with anyio.fail_after(30):
        assert (await brief.wait()).timed_out
        async for chunk in process:
            seen += chunk.data
            if b"still here" in seen:
                break
        await process.signal(signal.SIGKILL)
        assert not (await process.wait()).timed_out


async def test_a_server_lives_as_long_as_its_scope_and_keeps_its_newest_output(hasty: Sandbox) -> None:
    serving = "head -c 5000 /dev/zero; echo serving; exec sleep 1000"
    async with (
        hasty.background(shell_request(serving)) as server,
        hasty.background(shell_request(serving, timeout=0.1)) as brief,
    ):
        await server.until(b"serving")
        await use_up_an_execs_time(hasty)
        assert server.exit is None
        with anyio.fail_after(30):
            while brief.running:
                await anyio.sleep(0)
        assert brief.exit is not None
        assert brief.exit.timed_out


async def test_a_watch_lives_as_long_as_its_scope_and_leaves_no_change_out(hasty: Sandbox) -> None:
    async with hasty.files.watch(".") as events:
        await use_up_an_execs_time(hasty)
        names = {f"a file with a long name {number}" for number in range(20)}
        for name in names:
            await hasty.files.write(name, b"")
        with anyio.fail_after(30):
            async for event in events:
                names.discard(event.path)
                if not names:
                    break
        assert not names


async def test_a_watch_that_is_cut_short_says_so_and_one_whose_directory_is_gone_ends(sandbox: Sandbox) -> None:
    await sandbox.files.mkdir("d")
    with anyio.fail_after(30):
        async with sandbox.files.watch("d") as events:
            await sandbox.files.remove("d")
            assert [event.event async for event in events][-1:] == ["deleted"]
        async with sandbox.files.watch(".") as events:
            await sandbox.exec(shell_request("kill -9 -1"))
            with pytest.raises(Conflict, match="signal 9"):
                await anext(events)
        with pytest.raises(NotFound):
            await sandbox.files.watch("d").__aenter__()


def ended_execs(settings: Settings) -> list[Mapping[str, object]]:
    """What the trail says of execs that ended, in the order of their starts."""
    (trail,) = (settings.data / "audit").iterdir()
    ended = [event.data for event in read_trail(trail) if event.kind is EventKind.EXEC_ENDED]
    return sorted(ended, key=lambda data: data["exec"])


async def test_leaving_a_background_scope_kills_and_records_how_it_ended(sandbox: Sandbox, settings: Settings) -> None:
    async with sandbox.background(shell_request("echo begun; (setsid sleep 987 &); sleep 988")) as server:
        await server.until(b"begun")
    assert server.exit is not None
    (ended,) = ended_execs(settings)
    assert (ended["signal"], ended["output"]["stdout"]["head"]) == (signal.SIGKILL, "begun\n")
    assert "sleep 98" not in (await sandbox.exec(shell_request("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))).text


async def test_a_background_scope_that_is_cancelled_records_the_end_too(sandbox: Sandbox, settings: Settings) -> None:
    with anyio.CancelScope() as scope:
        async with sandbox.background(["sleep", "1000"]):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert len(ended_execs(settings)) == 1


async def test_errors_in_a_background_scope_arrive_as_they_were_raised(sandbox: Sandbox) -> None:
    with pytest.raises(ZeroDivisionError):
        async with sandbox.background(["sleep", "1000"]):
            _ = 1 / 0
    with pytest.raises(BackendUnavailable):  # noqa: PT012
        async with sandbox.background(["sleep", "1000"]):
            await sandbox.delete()
            await anyio.sleep_forever()


async def test_the_end_of_a_sandbox_during_a_call_is_one_error_and_replaces_none(sandbox: Sandbox) -> None:
    async def end_it(events: AsyncIterator[WatchEvent]) -> None:
        async for event in events:
            if event.path == "begun":
                break
        await sandbox.delete()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks, sandbox.shell() as shell, sandbox.files.watch(".") as events:
            await shell.exec("true")
            tasks.start_soon(end_it, events)
            with pytest.raises(BackendUnavailable):
                await sandbox.exec(shell_request("touch begun; exec sleep 1000"), input=bytes(8 * MIB))


async def test_a_listing_that_is_cancelled_leaves_no_process(sandbox: Sandbox, settings: Settings) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: sandbox.files.list("/usr", depth=0))
            while (await sandbox.status()).processes == 0:
                await anyio.sleep(0)
            tasks.cancel_scope.cancel()
    assert (await sandbox.status()).processes == 0
    assert len(ended_execs(settings)) == 1
