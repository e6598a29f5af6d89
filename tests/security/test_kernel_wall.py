"""Escape, HostLeak and HostDoS by system calls: what the kernel refuses an orphan, and would do without the wall."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest

from gloveport.backends.bubblewrap.calls import REFUSED_CALLS
from gloveport.backends.bubblewrap.probe import LEAST_LANDLOCK, landlock_version
from gloveport.doctor.kernel_attacks import ARGUMENTS, ONLY_FOR_ROOT
from gloveport.model import Spec
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.sandbox import Manager, Sandbox, shell_request
from gloveport.settings import Settings
from gloveport.store import remove_tree

pytestmark = pytest.mark.needs("bubblewrap")

PATIENCE = 120
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
ARM = COLUMN == 1
NUMBERS = {name: numbers[COLUMN] for name, numbers in REFUSED_CALLS.items() if numbers[COLUMN] >= 0} | {
    "clone": (56, 220)[COLUMN],
    "clone3": 435,
    "chmod": (90, -1)[COLUMN],
    "creat": (85, -1)[COLUMN],
    "fchmod": (91, 52)[COLUMN],
    "fchmodat": (268, 53)[COLUMN],
    "fchmodat2": 452,
    "getpid": (39, 172)[COLUMN],
    "mknod": (133, -1)[COLUMN],
    "mknodat": (259, 33)[COLUMN],
    "open": (2, -1)[COLUMN],
    "openat": (257, 56)[COLUMN],
    "openat2": 437,
    "ioctl": (16, 29)[COLUMN],
    "personality": (135, 92)[COLUMN],
    "socket": (41, 198)[COLUMN],
    "socketpair": (53, 199)[COLUMN],
}
ALLOW_EVERYTHING = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)

HARNESS = """
import ctypes, errno, json, mmap, os, sys

NUMBERS, ATTACKS, POWER = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *words):
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(NUMBERS[name]), *map(ctypes.c_long, words))
    if answer == 0 and name == "clone":
        os._exit(0)
    return errno.errorcode[ctypes.get_errno()] if answer < 0 else "ok"

def set_user(name, *words):
    path = f"/tmp/gp-{os.getpid()}".encode()
    made = -1 if "mk" in name or "open" in name or name == "creat" else os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    text = ctypes.create_string_buffer(path)
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_RDWR, 0o4755, 0)
    known = {"path": ctypes.addressof(text), "file": made, "how": ctypes.addressof(how)}
    answer = call(name, *(known.get(word, word) for word in words))
    return oct(os.stat(path).st_mode & 0o6000) if answer == "ok" else answer

def set_user_nameless():
    folder = ctypes.create_string_buffer(b"/tmp")
    opened = libc.syscall(
        ctypes.c_long(NUMBERS["openat"]), ctypes.c_long(-100), folder, ctypes.c_long(os.O_TMPFILE | os.O_RDWR), 0o4755
    )
    return oct(os.fstat(opened).st_mode & 0o6000) if opened >= 0 else errno.errorcode[ctypes.get_errno()]

def set_group_of_a_directory():
    os.mkdir(f"/tmp/gp-{os.getpid()}")
    os.chmod(f"/tmp/gp-{os.getpid()}", 0o2755)
    return "ok"

def x32():
    NUMBERS["x32"] = NUMBERS["getpid"] | 0x40000000
    return call("x32")

def i386():
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3]))  # getpid through the 32-bit gate
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return "ok" if run() == os.getpid() else "nothing"

def file(path, flags):
    os.close(os.open(path, flags))
    return "ok"

def addresses():
    with open("/proc/kallsyms") as symbols:
        return "ok" if any(int(line.split()[0], 16) for _, line in zip(range(1000), symbols)) else "zeros"

def mount():
    if call("unshare", 0x10000000 | 0x20000) != "ok":
        return "no namespace"
    return "ok" if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 else errno.errorcode[ctypes.get_errno()]

def status(name):
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith(name + ":")][0]

def attack(name, code):
    if name in POWER:  # all the power that anybody can have in namespaces of their own
        call("unshare", 0x10000000 | 0x20000 | 0x4000000 | 0x40000000)
    try:
        return eval(code)
    except OSError as error:
        return errno.errorcode[error.errno]

def orphan(name, code):
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        middle = os.getpid()
        if os.fork() == 0:
            while os.getppid() == middle:
                os.sched_yield()
            os.write(writer, json.dumps(attack(name, code)).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(middle, 0)
    answer = b"".join(iter(lambda: os.read(reader, 4096), b""))
    os.close(reader)
    return json.loads(answer) if answer else "killed"

print(json.dumps({name: orphan(name, code) for name, code in ATTACKS.items()}))
"""

NEW_USER, NEW_NET, CHILD_SIGNAL = 0x10000000, 0x40000000, 17
ALL_NAMESPACES = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": NEW_USER,
    "pid": 0x20000000,
    "network": NEW_NET,
}
BY_ARGUMENT: Mapping[str, tuple[str, str]] = {
    # attack: (code, what the wall answers)
    **{f"unshare the {name} namespace": (f"call('unshare', {flag})", "EPERM") for name, flag in ALL_NAMESPACES.items()},
    "clone into a user namespace": (f"call('clone', {NEW_USER | CHILD_SIGNAL}, 0, 0, 0, 0)", "EPERM"),
    "clone3": ("call('clone3', 0, 0)", "ENOSYS"),
    "TIOCSTI": ("call('ioctl', -1, 0x5412, 0)", "EPERM"),
    "TIOCSTI with a bit the kernel ignores": ("call('ioctl', -1, 0x5412 | 1 << 32, 0)", "EPERM"),
    "TIOCLINUX": ("call('ioctl', -1, 0x541C, 0)", "EPERM"),
    "TIOCCONS": ("call('ioctl', -1, 0x541D, 0)", "EPERM"),
    "TIOCSETD": ("call('ioctl', -1, 0x5423, 0)", "EPERM"),
    "personality without random addresses": ("call('personality', 0x40000)", "EPERM"),
    "personality with executable data": ("call('personality', 0x400000)", "EPERM"),
    "AF_VSOCK": ("call('socket', 40, 1, 0)", "EAFNOSUPPORT"),
    "AF_PACKET": ("call('socket', 17, 3, 0)", "EAFNOSUPPORT"),
    "AF_ALG": ("call('socket', 38, 5, 0)", "EAFNOSUPPORT"),
    "AF_XDP": ("call('socket', 44, 3, 0)", "EAFNOSUPPORT"),
    "netlink to audit": ("call('socket', 16, 3, 9)", "EPROTONOSUPPORT"),
    "netlink to the socket lists": ("call('socket', 16, 3, 4)", "EPROTONOSUPPORT"),
    "netlink to the firewall": ("call('socket', 16, 3, 12)", "EPROTONOSUPPORT"),
    "netlink to device events": ("call('socket', 16, 3, 15)", "EPROTONOSUPPORT"),
    "a raw socket": ("call('socket', 2, 3, 1)", "EPERM"),
    "a raw IPv6 socket": ("call('socket', 10, 3, 58)", "EPERM"),
    "an old packet socket": ("call('socket', 2, 10, 0x300)", "EPERM"),
    "SCTP": ("call('socket', 2, 1, 132)", "EPROTONOSUPPORT"),
    "MPTCP": ("call('socket', 2, 1, 262)", "EPROTONOSUPPORT"),
    "a pair of internet sockets": ("call('socketpair', 2, 1, 0, 0)", "EAFNOSUPPORT"),
}
CREATE = os.O_CREAT | os.O_RDWR
SET_USER: Mapping[str, tuple[str, str]] = {
    # attack, by which a file of the host's user would run as that user whoever starts it: (code, what the wall answers)
    "fchmod u+s": ("set_user('fchmod', 'file', 0o4755)", "EPERM"),
    "fchmod u+s with bits the kernel ignores": ("set_user('fchmod', 'file', 0o4755 | 1 << 20 | 1 << 40)", "EPERM"),
    "fchmod u+s and g+s": ("set_user('fchmod', 'file', 0o6755)", "EPERM"),
    "fchmodat u+s": ("set_user('fchmodat', -100, 'path', 0o4755)", "EPERM"),
    "fchmodat2 u+s": ("set_user('fchmodat2', -100, 'path', 0o4755, 0)", "EPERM"),
    "mknodat u+s": ("set_user('mknodat', -100, 'path', 0o104755, 0)", "EPERM"),
    "openat u+s": (f"set_user('openat', -100, 'path', {CREATE}, 0o4755)", "EPERM"),
    "openat u+s without a name": ("set_user_nameless()", "EPERM"),
    "openat2 u+s": ("set_user('openat2', -100, 'path', 'how', 24)", "ENOSYS"),
}
SET_USER_OLD: Mapping[str, tuple[str, str]] = {
    "chmod u+s": ("set_user('chmod', 'path', 0o4755)", "EPERM"),
    "creat u+s": ("set_user('creat', 'path', 0o4755)", "EPERM"),
    "mknod u+s": ("set_user('mknod', 'path', 0o104755, 0)", "EPERM"),
    "open u+s": (f"set_user('open', 'path', {CREATE}, 0o4755)", "EPERM"),
}
"""Calls that arm64 does not have."""
OTHER_WAYS_IN: Mapping[str, tuple[str, str]] = {
    "an x32 call": ("x32()", "ENOSYS"),
    "a 32-bit call": ("i386()", "killed"),
}
FILES: Mapping[str, tuple[str, set[str]]] = {
    # path: (how it is opened, what the wall may answer)
    "/proc/self/comm": ("os.O_WRONLY", {"EACCES"}),
    "/proc/self/oom_score_adj": ("os.O_WRONLY", {"EACCES"}),
    "/proc/1/mem": ("os.O_RDONLY", {"EACCES"}),
    "/proc/1/environ": ("os.O_RDONLY", {"EACCES"}),
    "/proc/sys/kernel/core_pattern": ("os.O_WRONLY", {"EACCES", "EROFS"}),
    "/proc/sys/kernel/shmmax": ("os.O_WRONLY", {"EROFS"}),
    "/proc/sys/fs/mqueue/queues_max": ("os.O_WRONLY", {"EROFS"}),
    "/proc/sysrq-trigger": ("os.O_WRONLY", {"EACCES"}),
    **{
        f"/proc/{name}": ("os.O_RDONLY", {"EACCES"})
        for name in ("kcore", "keys", "timer_list", "interrupts", "kmsg", "slabinfo")
    },
    "/sys": ("os.O_RDONLY", {"ENOENT"}),
    "/sys/kernel": ("os.O_RDONLY", {"ENOENT"}),
}
ADDRESSES = {"addresses of the kernel": "addresses()"}
SECOND = {"a mount in a namespace of one's own": "mount()"}
FACTS = {
    name: f"status('{name}')" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
}
OWN = {f"own {name}": f"file('/proc/self/{name}', os.O_RDONLY)" for name in ("mem", "environ")}
HARMLESS = {
    **OWN,
    "AF_UNIX": "call('socket', 1, 1, 0)",
    "TCP": "call('socket', 2, 1, 6)",
    "UDP": "call('socket', 10, 2, 17)",
    "netlink for getifaddrs": "call('socket', 16, 3 | 0x80000, 0)",
    "a pair": "__import__('socket').socketpair() and 'ok'",
    "a path": "(lambda s: s.bind('/tmp/gp-' + str(os.getpid())) or s.listen() or 'ok')(__import__('socket').socket(1))",
    "names of interfaces": "__import__('socket').if_nameindex() and 'ok'",
    "a thread": "(lambda t: t.start() or t.join() or 'ok')(__import__('threading').Thread(target=int))",
    "a message queue": "'ok' if ctypes.CDLL('librt.so.1').mq_open(b'/gp', 0o102, 0o600, None) >= 0 else 'no'",
    "a personality": "call('personality', 0xFFFFFFFF)",
    "g+s of a directory": "set_group_of_a_directory()",
    "the bits of every day": "'ok' if set_user('fchmod', 'file', 0o1777) == '0o0' else 'no'",
    "opening without a mode": "file(b'/etc/passwd', os.O_RDONLY)",
    "opening with a mode of no meaning": "'ok' if libc.syscall(NUMBERS['openat'], -100, b'/', 0, 0o4755) > 0 else ''",
}

ATTACKS: Mapping[str, str] = {
    **{name: f"call({name!r}, *{ARGUMENTS[name]})" for name in NUMBERS if name in ARGUMENTS},
    **{name: code for name, (code, _) in (BY_ARGUMENT | ({} if ARM else OTHER_WAYS_IN)).items()},
    **{name: code for name, (code, _) in (SET_USER | ({} if ARM else SET_USER_OLD)).items()},
    **{path: f"file({path!r}, {flags})" for path, (flags, _) in FILES.items()},
    **ADDRESSES,
    **SECOND,
    **FACTS,
    **HARMLESS,
}
Answers = Mapping[str, str]


POWERFUL = [
    name for name in ATTACKS if "user namespace" not in name and name not in SECOND | SET_USER | SET_USER_OLD | HARMLESS
]
"""Who has a user namespace of its own can make no other in it, and owns no file."""


def given(attacks: Mapping[str, str], powerful: Sequence[str] = ()) -> str:
    return json.dumps([NUMBERS, dict(attacks), list(powerful)])


async def attack_inside(manager: Manager, powerful: Sequence[str] = ()) -> Answers:
    sandbox = Sandbox(await manager.create(Spec()))
    if not (await sandbox.exec(["python3", "-c", ""])).ok:
        pytest.skip("no python3 in the sandbox")
    result = await sandbox.exec(["python3", "-c", HARNESS, given(ATTACKS, powerful)])
    assert result.ok, result
    answers: Answers = json.loads(result.stdout)
    return answers


async def attack_with_and_without(settings: Settings) -> tuple[Answers, Answers]:
    """In a sandbox, and in one whose system-call filter the owner of the state directory made to refuse nothing."""
    with anyio.fail_after(PATIENCE):
        async with Manager(settings) as manager:
            walled = await attack_inside(manager)
            (program,) = settings.state.glob("helpers/*/seccomp.bpf")
            program.write_bytes(ALLOW_EVERYTHING)
            return walled, await attack_inside(manager, POWERFUL)


@pytest.fixture(scope="module")
def arms() -> Iterator[tuple[Answers, Answers]]:
    place = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))
    place.chmod(0o711)
    yield anyio.run(attack_with_and_without, Settings(state=place / "state", data=place / "data"))
    remove_tree(place)


@pytest.fixture(scope="module")
def walled(arms: tuple[Answers, Answers]) -> Answers:
    return arms[0]


@pytest.fixture(scope="module")
def unfiltered(arms: tuple[Answers, Answers]) -> Answers:
    return arms[1]


def attack_host(name: str) -> str:
    """The same attack by this user on the host. Each is harmless there, whatever comes of it."""
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, given({name: ATTACKS[name]})],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    return str(json.loads(done.stdout)[name])


def test_every_refused_call_is_tried() -> None:
    assert ARGUMENTS.keys() == REFUSED_CALLS.keys()


@pytest.mark.parametrize("name", sorted(ARGUMENTS.keys() & NUMBERS.keys()))
def test_a_call_is_refused_to_an_orphan_and_reaches_the_kernel_without_the_filter(
    name: str, walled: Answers, unfiltered: Answers
) -> None:
    assert walled[name] == "EPERM"
    if name not in ONLY_FOR_ROOT:
        assert unfiltered[name] != "EPERM"
    elif os.geteuid() == 0:
        assert attack_host(name) != "EPERM"
    else:
        pytest.skip("that the filter and not the kernel refuses it is shown as root")


@pytest.mark.parametrize("name", BY_ARGUMENT)
def test_an_argument_is_refused_to_an_orphan_and_reaches_the_kernel_without_the_filter(
    name: str, walled: Answers, unfiltered: Answers
) -> None:
    refusal = BY_ARGUMENT[name][1]
    assert walled[name] == refusal
    if unfiltered[name] == refusal and refusal in ("EAFNOSUPPORT", "EPROTONOSUPPORT"):
        pytest.skip("this kernel has no such family or protocol itself")
    assert unfiltered[name] != refusal


@pytest.mark.parametrize("name", SET_USER | ({} if ARM else SET_USER_OLD))
def test_no_file_of_the_hosts_user_is_made_to_run_as_that_user_and_without_the_filter_it_is(
    name: str, walled: Answers, unfiltered: Answers
) -> None:
    assert walled[name] == (SET_USER | SET_USER_OLD)[name][1]
    if unfiltered[name] == "ENOSYS":
        pytest.skip("this kernel has no such call itself")
    assert unfiltered[name] in ("0o4000", "0o6000")


LEAVE = """
cd {shown}
cp "$(command -v cat)" one && chmod u+s one
install -m 4755 one two
python3 -c 'import os; os.close(os.open("three", os.O_CREAT | os.O_RDWR, 0o4755))'
mkdir -m 2775 folder && touch folder/file && cp -a folder copied && chmod 755 copied
tar -c copied | tar -xp -C folder
"""


@pytest.mark.parametrize("is_walled", [True, False], ids=["walled", "without the filter"])
def test_a_guest_leaves_no_program_that_runs_as_you_in_a_path_of_the_host(place: Path, is_walled: bool) -> None:
    async def attack() -> str:
        rules = parse_document(f'[files]\nwritable = ["{shown}"]'.encode(), "p.toml")
        spec = Spec(policy=merge_layers([compile_layer(rules, "project")]))
        with anyio.fail_after(PATIENCE):
            async with Manager(Settings(state=place / "state", data=place / "data")) as manager:
                if not is_walled:
                    await manager.delete((await manager.create(Spec())).ref.id)  # the first one makes the filter
                    (program,) = (place / "state").glob("helpers/*/seccomp.bpf")
                    program.write_bytes(ALLOW_EVERYTHING)
                return (await Sandbox(await manager.create(spec)).exec(shell_request(LEAVE.format(shown=shown)))).text

    shown = place / "work"
    shown.mkdir()
    said = anyio.run(attack)
    bits = {path.name: path.stat().st_mode & 0o4000 for path in shown.rglob("*")}
    assert {name for name, bit in bits.items() if bit} == (set() if is_walled else {"one", "two", "three"}), said
    assert {"one", "folder", "copied", "file"} <= bits.keys(), said
    assert shown.joinpath("copied").stat().st_mode & 0o2000  # ordinary work goes on


@pytest.mark.skipif(ARM, reason="arm64 has one way to call here")
@pytest.mark.parametrize("name", OTHER_WAYS_IN)
def test_another_way_to_call_is_closed_and_open_on_the_host(name: str, walled: Answers) -> None:
    refusal = OTHER_WAYS_IN[name][1]
    assert walled[name] == refusal
    if attack_host(name) != "ok":
        pytest.skip("this kernel has no such way itself")


@pytest.mark.parametrize("path", FILES)
def test_a_file_of_the_kernel_is_closed_to_an_orphan_and_open_to_its_owner(path: str, walled: Answers) -> None:
    if not os.path.exists(path):
        pytest.skip("this kernel has no such file")
    if path.startswith("/proc/self/") and landlock_version() < LEAST_LANDLOCK:
        pytest.skip("no Landlock in this kernel: a process writes to its own files in /proc")
    assert walled[path] in FILES[path][1]
    if path.startswith("/proc/1/"):
        assert walled[f"own {os.path.basename(path)}"] == "ok"
    elif os.geteuid() == 0 or path.startswith(("/proc/self", "/sys")):
        assert attack_host(path) == "ok"


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_orphan_learns_nothing_that_root_of_the_host_does(name: str, walled: Answers) -> None:
    assert walled[name] in ("EACCES", "zeros")
    if os.geteuid() == 0:
        assert attack_host(name) == "ok"


def test_a_mount_is_refused_even_without_the_filter(unfiltered: Answers) -> None:
    if landlock_version() < LEAST_LANDLOCK:
        pytest.skip("no Landlock in this kernel: the filter is the only wall around mounts")
    (attack,) = SECOND
    assert unfiltered[attack] == "EPERM"
    assert attack_host(attack) == "ok"


def test_an_orphan_has_no_linux_capability_and_gains_none(walled: Answers) -> None:
    assert {walled[name] for name in FACTS if name.startswith("Cap")} == {"0000000000000000"}
    assert (walled["NoNewPrivs"], walled["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_programs_need_works(name: str, walled: Answers) -> None:
    assert walled[name] == "ok"


def test_the_probe_says_whether_there_is_a_second_wall(place: Path) -> None:
    async def probe() -> Mapping[str, str]:
        async with Manager(Settings(state=place / "state", data=place / "data")) as manager:
            return manager.probes()[0].versions

    version = landlock_version()
    assert anyio.run(probe)["landlock"] == (str(version) if version else "none")
