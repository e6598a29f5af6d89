"""The runner, as its clients see it: by its socket and as a process."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gloveport.client import Connection, connect, encode, stop_runner
from gloveport.client.backend import RunnerBackend
from gloveport.client.start import runner_environment
from gloveport.client.wire import INPUT_WINDOW, Decoder, Kind, encode_data, encode_frame, encode_json, encode_signal
from gloveport.errors import BackendUnavailable, GloveportError, InvalidRequest, LimitExceeded, NotFound
from gloveport.listen.connection import Connection as RunnerConnection
from gloveport.listen.contain import contain
from gloveport.model import ExecRequest, Limits, Ref, Spec
from gloveport.runner.processes import relay
from gloveport.sandbox import Sandbox
from gloveport.settings import Settings

from ..conftest import PATIENCE, processes_below  # noqa: TID252 - tests are no package of ours


@pytest.fixture
def live(settings: Settings) -> Iterator[Settings]:
    """An installation that may have a runner; it has none afterwards."""
    yield settings
    stop_runner(settings.socket)


@pytest.fixture
def name(live: Settings) -> str:
    """The id of an empty sandbox."""
    return call(live, "create", spec=encode(Spec()))["status"]["ref"]["id"]


def call(settings: Settings, verb: str, **fields: Any) -> dict[str, Any]:
    with connect(settings) as runner:
        return runner.call(verb, **fields)


def begin_exec(runner: Connection, name: str, *argv: str, **options: Any) -> None:
    runner.begin("exec", id=name, request=encode(ExecRequest(argv=argv, **options)))


def finish(runner: Connection) -> tuple[dict[str, Any], bytes]:
    output: list[bytes] = []
    while (frame := runner.next()).kind is not Kind.RESULT:
        if frame.kind is Kind.STDOUT:
            output.append(frame.payload)
    return frame.json()["exit"], b"".join(output)


def shell(settings: Settings, name: str, line: str) -> tuple[dict[str, Any], bytes]:
    with connect(settings) as runner:
        begin_exec(runner, name, "/bin/sh", "-c", line)
        return finish(runner)


def wait_no_sleep(settings: Settings, name: str) -> None:
    """Return once no `sleep` runs in the guest; it is the guest's own limit of time that gives up."""
    ended, _ = shell(settings, name, "while grep -qx sleep /proc/[0-9]*/comm; do :; done 2>/dev/null")
    assert ended["code"] == 0


def pid_of(settings: Settings) -> int:
    return int(call(settings, "info")["pid"])


def wait_gone(pid: int) -> None:
    """Return once the process is gone; fail after a long while."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], PATIENCE)[0], f"{pid} is still there"
    finally:
        os.close(handle)


def wait_ended(settings: Settings, name: str) -> None:
    """Return once the first detached process has ended; fail after a long while."""
    deadline = time.monotonic() + PATIENCE
    while call(settings, "processes", id=name)["processes"][0]["running"]:
        assert time.monotonic() < deadline


def test_ten_first_uses_at_once_share_one_runner(live: Settings) -> None:
    with ThreadPoolExecutor(10) as pool:
        pids = set(pool.map(lambda _: pid_of(live), range(10)))
    assert len(pids) == 1


def test_a_stale_socket_of_a_dead_runner_is_replaced(live: Settings) -> None:
    pid = pid_of(live)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    assert live.socket.exists()
    assert pid_of(live) != pid


def test_only_its_own_user_can_reach_the_socket(live: Settings) -> None:
    call(live, "info")
    assert live.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.needs("root")
def test_another_user_is_sent_away_even_where_the_socket_is_open_to_all(live: Settings) -> None:
    call(live, "info")
    live.socket.chmod(0o666)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        os.seteuid(65_534)
        try:
            peer.connect(str(live.socket))
        finally:
            os.seteuid(0)
        assert peer.recv(1) == b"", "not even a HELLO"
    assert call(live, "info")["protocol"] == 1


def test_an_idle_runner_stops_by_itself_and_leaves_no_socket(place: Path) -> None:
    settings = Settings(state=place / "state", data=place / "data", idle_seconds=0.2)
    wait_gone(pid_of(settings))
    assert not settings.socket.exists()


def test_a_runner_that_holds_a_sandbox_does_not_stop_for_being_idle(place: Path) -> None:
    settings = Settings(state=place / "state", data=place / "data", idle_seconds=0.2)
    name = call(settings, "create", spec=encode(Spec()))["status"]["ref"]["id"]
    pid = pid_of(settings)
    # Another runner, younger and with nothing to hold, measures an idle period.
    wait_gone(pid_of(replace(settings, state=place / "other", data=place / "other-data")))
    assert pid_of(settings) == pid
    call(settings, "delete", id=name)
    wait_gone(pid)


def test_stopping_deletes_every_sandbox(live: Settings, name: str) -> None:
    assert stop_runner(live.socket)
    assert not list((live.state / "sandboxes").iterdir())
    assert not processes_below(live.state)
    assert not stop_runner(live.socket)


def test_no_key_reaches_the_runner(settings: Settings) -> None:
    variables = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_AUTH_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s", "PATH": "/bin"}
    found = runner_environment(variables, settings)
    assert found["PATH"] == "/bin"
    assert not {"k", "t", "s"} & set(found.values())


def test_an_exec_streams_both_outputs_and_returns_how_it_ended(live: Settings, name: str) -> None:
    with connect(live) as runner:
        begin_exec(runner, name, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
        frames = [runner.next() for _ in range(4)]
    assert frames[0].kind is Kind.STARTED
    assert {(frame.kind, frame.payload) for frame in frames[1:3]} == {
        (Kind.STDOUT, b"out\n"),
        (Kind.STDERR, b"err\n"),
    }
    assert frames[3].json()["exit"]["code"] == 7


def test_output_arrives_while_the_command_runs(live: Settings, name: str) -> None:
    """The command cannot end before its first output was seen, because only then is it told to."""
    with connect(live) as runner:
        begin_exec(runner, name, "/bin/sh", "-c", "echo ready; read answer; echo got $answer", stdin=True)
        assert runner.next().kind is Kind.STARTED
        assert runner.next().payload == b"ready\n"
        runner.send(b"".join(encode_data(Kind.INPUT, b"it\n")))
        ended, output = finish(runner)
    assert (ended["code"], output) == (0, b"got it\n")


def test_input_of_any_size_goes_through_with_credit(live: Settings, name: str) -> None:
    data = os.urandom(3 * INPUT_WINDOW + 17)
    with connect(live) as runner:
        begin_exec(runner, name, "cat", stdin=True)
        sent, credit, output = 0, INPUT_WINDOW, b""
        while True:
            while credit and sent < len(data):
                part = data[sent : sent + min(credit, 40_000)]
                runner.send(b"".join(encode_data(Kind.INPUT, part)))
                sent, credit = sent + len(part), credit - len(part)
                if sent == len(data):
                    runner.send(encode_frame(Kind.INPUT_END))
            frame = runner.next()
            if frame.kind is Kind.RESULT:
                break
            if frame.kind is Kind.INPUT_CREDIT:
                credit += frame.credit()
            elif frame.kind is Kind.STDOUT:
                output += frame.payload
    assert output == data


def test_a_signal_passes_input_that_nobody_reads(live: Settings, name: str) -> None:
    with connect(live) as runner:
        begin_exec(runner, name, "sleep", "1000", stdin=True)
        runner.send(b"".join(encode_data(Kind.INPUT, bytes(INPUT_WINDOW))))
        runner.send(encode_signal(signal.SIGTERM, tree=True))
        ended, _ = finish(runner)
    assert ended["signal"] == signal.SIGTERM


def test_a_caller_that_sends_more_than_it_was_granted_is_cut_off(live: Settings, name: str) -> None:
    with connect(live) as runner:
        begin_exec(runner, name, "sleep", "1000", stdin=True)
        # guestd and the pipe take some of it, and as much is granted anew: this is more than all of that.
        runner.send(b"".join(encode_data(Kind.INPUT, bytes(4 * INPUT_WINDOW))))
        while runner.receive() is not None:
            pass
    wait_no_sleep(live, name)


def test_the_tree_of_a_caller_that_leaves_is_killed(live: Settings, name: str) -> None:
    with connect(live) as runner:
        begin_exec(runner, name, "/bin/sh", "-c", "sleep 1000 & echo started; sleep 1000")
        assert [runner.next().kind, runner.next().payload] == [Kind.STARTED, b"started\n"]
    wait_no_sleep(live, name)


class Unheard(RunnerConnection):
    """A way back on which nothing gets through, as to a caller who stopped reading."""

    def __init__(self) -> None:
        self.asked = anyio.Event()

    async def started(self, **facts: Any) -> None:
        self.asked.set()
        await anyio.sleep_forever()


async def test_the_tree_of_a_caller_that_leaves_before_it_hears_of_it_is_killed(sandbox: Sandbox) -> None:
    process = await sandbox.start(["sleep", "1000"])
    unheard = Unheard()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay, process, unheard)
        await unheard.asked.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(PATIENCE):
        assert (await process.wait()).signal == signal.SIGKILL


def test_a_detached_process_outlives_its_caller_and_its_output_is_kept(live: Settings, name: str) -> None:
    request = encode(ExecRequest(argv=("/bin/sh", "-c", "echo serving; exec sleep 1000")))
    started = call(live, "exec", id=name, request=request, detach=True)["process"]
    assert (started["number"], started["running"]) == (1, True)
    output = b""
    while output != b"serving\n":
        parts: list[bytes] = []
        with connect(live) as runner:
            runner.call("output", id=name, process=1, sink=parts.append)
        output = b"".join(parts)
    shell(live, name, "for p in /proc/[0-9]*; do grep -qx sleep $p/comm && kill ${p#/proc/}; done")
    wait_ended(live, name)
    assert call(live, "processes", id=name)["processes"][0]["status"] == 128 + signal.SIGTERM


def test_64_execs_at_once(live: Settings, name: str) -> None:
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda n: shell(live, name, f"echo {n}; exit {n}"), range(64)))
    assert [(ended["code"], output) for ended, output in found] == [(n, f"{n}\n".encode()) for n in range(64)]


def test_streaming_64_mib_does_not_grow_the_runner(live: Settings, name: str) -> None:
    """Also when the caller pauses: what it does not take stays in the guest."""
    pid = pid_of(live)
    shell(live, name, "head -c 4m /dev/zero")
    before = peak(pid)
    with connect(live) as runner:
        begin_exec(runner, name, "head", "-c", "64m", "/dev/zero", output_bytes=2**30)
        ended, output = finish(runner)
    assert (ended["code"], len(output)) == (0, 64 * 2**20)
    assert peak(pid) - before < 16 * 2**20


def peak(pid: int) -> int:
    """The most resident memory a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_files_are_written_and_read(live: Settings, name: str) -> None:
    data = bytes(range(256)) * 2048
    with connect(live) as runner:
        runner.begin("write", id=name, path="a/b")
        runner.send(b"".join(encode_data(Kind.INPUT, data[:INPUT_WINDOW])))
        granted = 0
        while granted < len(data) - INPUT_WINDOW:
            granted += runner.next().credit()
        runner.send(b"".join(encode_data(Kind.INPUT, data[INPUT_WINDOW:])) + encode_frame(Kind.INPUT_END))
        while runner.next().kind is not Kind.RESULT:
            pass
    read: list[bytes] = []
    with connect(live) as runner:
        runner.call("read", id=name, path="a/b", sink=read.append)
    assert b"".join(read) == data


@pytest.mark.parametrize(
    ("verb", "fields", "error"),
    [
        ("nonsense", {}, InvalidRequest),
        ("status", {}, InvalidRequest),
        ("status", {"id": 1}, InvalidRequest),
        ("status", {"id": ""}, InvalidRequest),
        ("status", {"id": "nobody"}, NotFound),
        ("create", {"spec": {"sandbox": 1}}, InvalidRequest),
        ("create", {"spec": {"limits": {"processes": "many"}}}, InvalidRequest),
        ("create", {"spec": {"source": {"repo": "/nonexistent"}}}, NotFound),
        ("create", {"spec": {"backend": "magic"}}, InvalidRequest),
        ("create", {"spec": {"limits": {"exec_seconds": 10**400}}}, InvalidRequest),
        ("create", {"spec": {"limits": {"memory_bytes": 10**400}}}, InvalidRequest),
        ("create", {"spec": {"env": {"A": "\ud800"}}}, InvalidRequest),
    ],
)
def test_what_means_nothing_is_refused(
    live: Settings, verb: str, fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(live, verb, **fields)
    assert call(live, "list")["sandboxes"] == []


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, struct.pack("<IBI", 2**31, 1, 0)])
def test_garbage_ends_its_own_connection_only(live: Settings, garbage: bytes) -> None:
    call(live, "info")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(live.socket))
        peer.sendall(garbage)
        decoder, kinds = Decoder(), []
        while data := peer.recv(65_536):
            kinds += [frame.kind for frame in decoder.feed(data)]
    assert kinds == [Kind.HELLO, Kind.ERROR]
    assert call(live, "info")["protocol"] == 1


def test_a_runner_of_another_version_is_refused_with_the_way_out(place: Path) -> None:
    path = place / "runner.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def greet() -> None:
            peer, _ = other.accept()
            with peer:
                peer.sendall(encode_json(Kind.HELLO, {"protocol": 99, "version": "9.9"}))

        greeter = threading.Thread(target=greet)
        greeter.start()
        with pytest.raises(BackendUnavailable, match=r"9\.9") as caught:
            Connection.open(path)
        greeter.join(PATIENCE)
    assert "gloveport runner stop" in caught.value.hint


def test_what_the_caller_ignores_is_not_ignored_in_the_guest(live: Settings) -> None:
    """A background job of a shell ignores SIGINT, and the first command may be one."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        created = call(live, "create", spec=encode(Spec()))["status"]["ref"]["id"]
    finally:
        signal.signal(signal.SIGINT, before)
    _, output = shell(live, created, "grep SigIgn /proc/self/status")
    assert int(output.split()[1], 16) & 1 << (signal.SIGINT - 1) == 0


def test_the_diff_of_more_paths_than_one_answer_holds_lists_the_first_and_counts_all(live: Settings, name: str) -> None:
    many = "for i in range(12_000): open(b'%06d' % i + bytes([255]) * 240, 'w').close()"
    ended, _ = shell(live, name, f'python3 -c "{many}"')
    assert ended["code"] == 0
    patch = bytearray()
    with connect(live) as runner:
        facts = runner.call("diff", id=name, ignored=True, sink=patch.extend)
    assert facts["paths_total"] == patch.count(b"diff --git ") == 12_000
    assert 1_000 < len(facts["paths"]) <= 10_000
    with pytest.raises(LimitExceeded) as caught:
        call(live, "changes", id=name, ignored=True)
    assert "runner stop" not in caught.value.hint
    assert call(live, "status", id=name)["status"]["state"] == "running"


def test_a_detached_process_that_cannot_be_recorded_ends_nobody_elses_sandbox(live: Settings, name: str) -> None:
    """A full disk, as a limit on the size of the runner's files has it."""
    other = call(live, "create", spec=encode(Spec()))["status"]["ref"]["id"]
    request = encode(ExecRequest(argv=("/bin/sh", "-c", "until [ -e go ]; do :; done")))
    call(live, "exec", id=name, request=request, detach=True)
    pid = pid_of(live)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    with connect(live) as runner:
        runner.begin("write", id=name, path="go")
        runner.send(encode_frame(Kind.INPUT_END))
        with pytest.raises(GloveportError):
            runner.next()
    wait_ended(live, name)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert pid_of(live) == pid
    assert shell(live, other, "echo alive")[1] == b"alive\n"


def test_running_out_of_descriptors_keeps_new_callers_waiting_and_ends_nothing(live: Settings, name: str) -> None:
    pid = pid_of(live)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, before[1]))
    peers = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    try:
        for peer in peers:
            peer.settimeout(PATIENCE)
            peer.connect(str(live.socket))
        greeted = [peer for peer in peers[:2] if peer.recv(1)]
        assert greeted, "the runner has taken some"
    finally:
        for peer in peers:
            peer.close()
    assert pid_of(live) == pid
    assert shell(live, name, "echo alive")[1] == b"alive\n"


@pytest.mark.anyio
async def test_work_that_fails_is_contained_and_cancellation_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        await anyio.sleep(0)
        raise OSError(28, "No space left on device")

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(contain, "the work", fail)
            await anyio.sleep(0.01)
        assert "the work failed" in caplog.text
        assert "No space left" in caplog.text
        with anyio.CancelScope() as scope:
            scope.cancel()
            await contain("it", anyio.sleep_forever)
        assert scope.cancelled_caught


def test_a_runner_may_open_as_many_files_as_its_host_lets_it_and_its_guests_as_their_limits_say(
    live: Settings,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        pid = pid_of(live)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (min(hard, 2**18), hard)
    created = call(live, "create", spec=encode(Spec(limits=Limits(open_files=77))))["status"]["ref"]["id"]
    assert shell(live, created, "ulimit -Sn; ulimit -Hn")[1] == b"77\n77\n"


@pytest.mark.anyio
async def test_a_cancelled_wait_stays_cancelled_when_the_runner_is_gone_too(live: Settings) -> None:
    name = call(live, "create", spec=encode(Spec()))["status"]["ref"]["id"]
    with anyio.fail_after(PATIENCE):
        async with RunnerBackend(live) as backend:
            process = await backend.exec(Ref(id=name, backend="runner"), ExecRequest(argv=("sleep", "1000")))
            pid = pid_of(live)
            with anyio.CancelScope() as scope:
                scope.cancel()
                os.kill(pid, signal.SIGKILL)
                wait_gone(pid)
                await process.wait()
    assert scope.cancelled_caught
