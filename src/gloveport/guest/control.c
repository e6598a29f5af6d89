/* The stream to the host: frames in, frames out, and back-pressure in both directions. */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    FRAME_MAX = HEAD_SIZE + PAYLOAD_MAX,
    IN_SIZE = 2 * FRAME_MAX,
    RESERVE = 16384,    /* of the outgoing buffer, for small frames only */
    ANSWERS = 256,      /* more than what one frame of the host can make guestd answer at once */
    LEAST_OUTPUT = 4096, /* below this room, output waits rather than going in slivers */
    OUT_SIZE = 4 * FRAME_MAX + RESERVE,
};

static struct {
    struct source source;
    uint8_t in[IN_SIZE];
    size_t in_size;
    uint8_t out[OUT_SIZE];
    size_t out_from, out_to;
    bool blocked; /* somebody found too little room since the last time there was plenty */
    uint8_t *parts;
    size_t parts_size;
    uint32_t parts_stream;
} control;

uint16_t get_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t get_u32(const uint8_t *at) {
    return get_u16(at) | (uint32_t)get_u16(at + 2) << 16;
}

uint64_t get_u64(const uint8_t *at) {
    return get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

void put_u64(uint8_t *at, uint64_t value) {
    put_u32(at, (uint32_t)value);
    put_u32(at + 4, (uint32_t)(value >> 32));
}

static size_t room(void) {
    return OUT_SIZE - (control.out_to - control.out_from);
}

static void make_room(size_t size) {
    if (OUT_SIZE - control.out_to >= size)
        return;
    memmove(control.out, control.out + control.out_from, control.out_to - control.out_from);
    control.out_to -= control.out_from;
    control.out_from = 0;
}

void control_push(enum guest_kind kind, uint32_t stream, size_t size) {
    uint8_t *head = control.out + control.out_to;
    put_u32(head, (uint32_t)size);
    head[4] = (uint8_t)kind;
    put_u32(head + 5, stream);
    control.out_to += HEAD_SIZE + size;
}

bool control_send(enum guest_kind kind, uint32_t stream, const void *payload, size_t size) {
    if (room() < HEAD_SIZE + size) {
        control.blocked = true;
        return false;
    }
    make_room(HEAD_SIZE + size);
    memcpy(control.out + control.out_to + HEAD_SIZE, payload, size);
    control_push(kind, stream, size);
    return true;
}

size_t control_space(void) {
    if (room() < RESERVE + HEAD_SIZE + LEAST_OUTPUT) {
        control.blocked = true;
        return 0;
    }
    size_t space = room() - RESERVE - HEAD_SIZE;
    return space < PAYLOAD_MAX ? space : PAYLOAD_MAX;
}

void *control_payload(void) {
    make_room(HEAD_SIZE + control_space());
    return control.out + control.out_to + HEAD_SIZE;
}

static _Noreturn void malformed(const char *why) {
    guestd_end(2, why);
}

static void append_part(uint32_t stream, const uint8_t *payload, size_t size) {
    if (control.parts_size + size > START_MAX)
        malformed("START too long");
    uint8_t *parts = realloc(control.parts, control.parts_size + size + 1); /* never 0, so never NULL in success */
    if (parts == NULL)
        guestd_end(1, "out of memory");
    memcpy(parts + control.parts_size, payload, size);
    control.parts = parts;
    control.parts_size += size;
    control.parts_stream = stream;
}

static void start(uint32_t stream, uint8_t *payload, size_t size) {
    struct start parsed;
    if (control.parts != NULL) {
        append_part(stream, payload, size);
        payload = control.parts;
        size = control.parts_size;
    }
    if (!start_parse(&parsed, payload, size))
        malformed("malformed START");
    process_start(stream, &parsed);
    start_free(&parsed);
    free(control.parts);
    control.parts = NULL;
    control.parts_size = 0;
}

static void need(bool condition) {
    if (!condition)
        malformed("malformed frame");
}

static void dispatch(uint8_t kind, uint32_t stream, uint8_t *payload, size_t size) {
    bool starts = kind == HOST_START || kind == HOST_START_PART;
    need(stream != 0 ? kind != HOST_PING : kind == HOST_SIGNAL || kind == HOST_PING);
    need(control.parts == NULL || (starts && stream == control.parts_stream));
    switch (kind) {
    case HOST_START:
        start(stream, payload, size);
        break;
    case HOST_START_PART:
        append_part(stream, payload, size);
        break;
    case HOST_INPUT:
        process_input(stream, payload, size);
        break;
    case HOST_INPUT_END:
        need(size == 0);
        process_input_end(stream);
        break;
    case HOST_SIGNAL:
        need(size == 2 && payload[0] >= 1 && payload[0] <= 64 && payload[1] <= 1);
        if (stream == 0)
            guestd_signal_all(payload[0]);
        else
            process_signal(stream, payload[0], payload[1] == 1);
        break;
    case HOST_RESIZE:
        need(size == 4);
        process_resize(stream, get_u16(payload), get_u16(payload + 2));
        break;
    case HOST_CREDIT:
        need(size == 4);
        process_credit(stream, get_u32(payload));
        break;
    case HOST_PING:
        need(size == 0);
        control_send(GUEST_PONG, 0, "", 0); /* there is room: parse() has seen to it */
        break;
    default:
        malformed("unknown frame");
    }
}

/* Handles the frames that are complete, as long as what they may answer has room. */
static void parse(void) {
    size_t at = 0;
    while (control.in_size - at >= HEAD_SIZE) {
        uint8_t *head = control.in + at;
        size_t size = get_u32(head);
        if (size > PAYLOAD_MAX)
            malformed("oversized frame");
        if (control.in_size - at < HEAD_SIZE + size)
            break;
        if (room() < ANSWERS) {
            control.blocked = true;
            break;
        }
        dispatch(head[4], get_u32(head + 5), head + HEAD_SIZE, size);
        at += HEAD_SIZE + size;
    }
    control.in_size -= at;
    memmove(control.in, control.in + at, control.in_size);
}

static void receive(void) {
    ssize_t got = read(control.source.fd, control.in + control.in_size, IN_SIZE - control.in_size);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        guestd_end(0, NULL);
    if (got < 0)
        return;
    control.in_size += (size_t)got;
    parse();
}

static void transmit(void) {
    while (control.out_from < control.out_to) {
        ssize_t put = write(control.source.fd, control.out + control.out_from, control.out_to - control.out_from);
        if (put < 0 && errno == EAGAIN)
            return;
        if (put < 0 && errno != EINTR)
            guestd_end(0, NULL);
        if (put > 0)
            control.out_from += (size_t)put;
    }
    control.out_from = control.out_to = 0;
}

void control_flush(void) {
    transmit();
    while (control.blocked && room() >= OUT_SIZE / 2) {
        control.blocked = false;
        processes_settle();
        parse();
        transmit();
    }
    uint32_t out = control.out_from < control.out_to ? EPOLLOUT : 0;
    source_watch(&control.source, (control.blocked ? 0 : EPOLLIN) | out);
}

void control_ready(uint32_t events) {
    if (events & (EPOLLHUP | EPOLLERR))
        guestd_end(0, NULL);
    if (events & EPOLLIN)
        receive();
}

void control_open(int fd) {
    uint8_t hello[4] = {PROTOCOL_VERSION};
    control.source = (struct source){.fd = fd, .kind = SOURCE_CONTROL};
    control_send(GUEST_HELLO, 0, hello, sizeof hello);
    control_flush();
}
