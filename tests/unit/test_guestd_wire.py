"""The host's codec of the guestd protocol."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloveport.errors import BackendUnavailable, InvalidRequest
from gloveport.guest.wire import (
    INPUT_WINDOW,
    MAX_PAYLOAD,
    Exit,
    FrameDecoder,
    GuestFrame,
    Hello,
    How,
    InputCredit,
    Output,
    Pong,
    Start,
    Started,
    encode_credit,
    encode_input,
    encode_input_end,
    encode_ping,
    encode_resize,
    encode_signal,
    encode_start,
)

HELLO = struct.pack("<IBIHH", 4, 64, 0, 1, 0)


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("<IBI", len(payload), kind, stream) + payload


def exit_payload(how: int = 0, flags: int = 0, reserved: int = 0) -> bytes:
    return struct.pack("<BBHiQQ", how, flags, reserved, 3, 4, 5)


def start(**changes: object) -> Start:
    facts: dict[str, object] = {"argv": [b"ls"], "cwd": b"/", "env": [b"A=1"], "credit": 1, "keep": 2}
    return Start(**(facts | changes))  # type: ignore[arg-type]


u32 = st.integers(1, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
frames = st.one_of(
    st.builds(Started, stream=u32, pid=u32),
    st.builds(Output, stream=u32, error=st.booleans(), data=st.binary(min_size=1, max_size=300)),
    st.just(Pong()),
    st.builds(InputCredit, stream=u32, amount=st.integers(0, INPUT_WINDOW)),
    st.builds(
        Exit,
        stream=u32,
        how=st.sampled_from(How),
        code=st.integers(-(2**31), 2**31 - 1),
        memory_limit=st.booleans(),
        timed_out=st.booleans(),
        bad_directory=st.booleans(),
        stdout_dropped=u64,
        stderr_dropped=u64,
    ),
)


def as_guest(message: GuestFrame) -> bytes:
    match message:
        case Started():
            return frame(65, message.stream, struct.pack("<I", message.pid))
        case Output():
            return frame(67 if message.error else 66, message.stream, message.data)
        case InputCredit():
            return frame(68, message.stream, struct.pack("<I", message.amount))
        case Exit():
            flags = message.memory_limit | message.timed_out << 1 | message.bad_directory << 2
            dropped = (message.stdout_dropped, message.stderr_dropped)
            return frame(69, message.stream, struct.pack("<BBHiQQ", message.how, flags, 0, message.code, *dropped))
        case Pong():
            return frame(70, 0, b"")
    return HELLO


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0), max_size=12))
def test_frames_survive_any_chunking(sent: list[GuestFrame], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    received: list[GuestFrame] = []
    for chunk in chunks(HELLO + b"".join(map(as_guest, sent)), cuts):
        received += decoder.feed(chunk)
    assert received == [Hello(version=1), *sent]
    assert decoder.pending == 0


@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_any_bytes_decode_or_raise_and_never_hold_more_than_a_frame(data: list[bytes], greeted: bool) -> None:
    decoder = FrameDecoder()
    try:
        if greeted:
            decoder.feed(HELLO)
        for chunk in data:
            decoder.feed(chunk)
            assert decoder.pending < 9 + MAX_PAYLOAD
    except BackendUnavailable:
        with pytest.raises(BackendUnavailable):
            decoder.feed(b"")


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_any_head_decodes_or_raises(kind: int, length: int, stream: int, rest: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(HELLO)
    try:
        decoder.feed(struct.pack("<IBI", length, kind, stream) + rest)
    except BackendUnavailable:
        return
    assert 65 <= kind <= 70
    assert length <= MAX_PAYLOAD
    assert (stream == 0) is (kind == 70)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(65, 1, b"\1\0\0\0"), id="something before HELLO"),
        pytest.param(HELLO + HELLO, id="HELLO twice"),
        pytest.param(frame(64, 1, b"\1\0\0\0"), id="HELLO on a process's stream"),
        pytest.param(frame(64, 0, b"\2\0\0\0"), id="another version"),
        pytest.param(frame(64, 0, b"\1\0\1\0"), id="HELLO with a reserved field in use"),
        pytest.param(HELLO + frame(66, 0, b"x"), id="output of no process"),
        pytest.param(HELLO + frame(66, 1, b""), id="empty output"),
        pytest.param(HELLO + frame(1, 1, b"x"), id="a frame of the host"),
        pytest.param(HELLO + frame(70, 1, b""), id="a PONG of a process"),
        pytest.param(HELLO + frame(70, 0, b"x"), id="PONG with content"),
        pytest.param(HELLO + frame(71, 1, b"x"), id="an unknown frame"),
        pytest.param(HELLO + struct.pack("<IBI", MAX_PAYLOAD + 1, 66, 1), id="an oversized head alone"),
        pytest.param(HELLO + frame(65, 1, b"\1\0\0"), id="a short STARTED"),
        pytest.param(HELLO + frame(68, 1, struct.pack("<I", INPUT_WINDOW + 1)), id="too much input credit"),
        pytest.param(HELLO + frame(69, 1, exit_payload(how=3)), id="an unknown end"),
        pytest.param(HELLO + frame(69, 1, exit_payload(flags=8)), id="an unknown flag"),
        pytest.param(HELLO + frame(69, 1, exit_payload(reserved=1)), id="EXIT with a reserved field in use"),
        pytest.param(HELLO + frame(69, 1, exit_payload() + b"x"), id="a long EXIT"),
    ],
)
def test_a_frame_that_is_not_in_the_page_is_refused(data: bytes) -> None:
    with pytest.raises(BackendUnavailable):
        FrameDecoder().feed(data)


def test_start_carries_everything_in_the_order_of_the_page() -> None:
    encoded = encode_start(
        7, start(argv=[b"a", b""], terminal=(24, 80), stdin=True, timeout_ms=1500, credit=10, keep=2**40)
    )
    strings = b"\1\0\0\0/" + b"\2\0\0\0\1\0\0\0a\0\0\0\0" + b"\1\0\0\0\3\0\0\0A=1"
    assert encoded == frame(1, 7, struct.pack("<HHHIIQ", 3, 24, 80, 10, 1500, 2**40) + strings)


def test_a_long_start_is_split_and_only_the_last_part_starts() -> None:
    encoded = encode_start(7, start(argv=[b"x" * 150_000]))
    kinds, payload = [], b""
    while encoded:
        length, kind, stream = struct.unpack_from("<IBI", encoded)
        assert (stream, length <= MAX_PAYLOAD) == (7, True)
        kinds.append(kind)
        payload += encoded[9 : 9 + length]
        encoded = encoded[9 + length :]
    assert kinds == [7, 7, 1]
    assert payload.count(b"x") == 150_000


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": [b"a\0b"]},
        {"argv": [b"x"] * 4_097},
        {"argv": [b"x" * 2**21]},
        {"cwd": b"relative"},
        {"env": [b"=value"]},
        {"env": [b"NAME"]},
        {"env": [b"A=\0"]},
    ],
    ids=repr,
)
def test_what_the_protocol_cannot_carry_is_refused_before_it_is_sent(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        encode_start(1, start(**changes))


def test_the_small_requests_are_one_frame_each() -> None:
    assert encode_input_end(1) == frame(3, 1, b"")
    assert encode_signal(1, 15, tree=True) == frame(4, 1, b"\x0f\1")
    assert encode_resize(1, 2, 3) == frame(5, 1, b"\2\0\3\0")
    assert encode_credit(1, 4) == frame(6, 1, b"\4\0\0\0")
    assert encode_ping() == frame(8, 0, b"")
    assert encode_input(1, b"") == b""
    assert encode_input(1, b"x" * (MAX_PAYLOAD + 1)) == frame(2, 1, b"x" * MAX_PAYLOAD) + frame(2, 1, b"x")
