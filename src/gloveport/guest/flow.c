/* The input and output of a process, and their credit. */
#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum {
    GRANT = 65536,           /* input credit goes out in pieces of at least this */
    TERMINAL_BOUND = 131072, /* more than a terminal holds on its way to guestd */
    END_OF_FILE = 4,         /* ^D, where the terminal does not say */
};

static uint8_t scratch[PAYLOAD_MAX];

static size_t queued(const struct process *process) {
    return process->queue_to - process->queue_from;
}

static void drop_queue(struct process *process) {
    process->consumed += (uint32_t)queued(process);
    free(process->queue);
    process->queue = NULL;
    process->queue_from = process->queue_to = 0;
}

void flow_close_input(struct process *process) {
    source_close(&process->input);
    drop_queue(process);
}

/* Writes as much as the process takes now; how much that was. A process that stopped reading counts as taking all. */
static size_t feed(struct process *process, const uint8_t *data, size_t size) {
    size_t fed = 0;
    while (fed < size) {
        ssize_t put = write(process->input.fd, data + fed, size - fed);
        if (put < 0 && errno == EAGAIN)
            return fed;
        if (put < 0) {
            source_close(&process->input);
            return size;
        }
        fed += (size_t)put;
    }
    return fed;
}

/* The window keeps the queue from ever needing more than its size. */
static void enqueue(struct process *process, const uint8_t *data, size_t size) {
    if (process->queue == NULL)
        process->queue = malloc(INPUT_WINDOW);
    if (process->queue == NULL)
        guestd_end(1, "out of memory");
    if (INPUT_WINDOW - process->queue_to < size) {
        memmove(process->queue, process->queue + process->queue_from, queued(process));
        process->queue_to -= process->queue_from;
        process->queue_from = 0;
    }
    memcpy(process->queue + process->queue_to, data, size);
    process->queue_to += size;
}

bool flow_input(struct process *process, const uint8_t *data, size_t size) {
    if (size > process->window)
        return false;
    process->window -= (uint32_t)size;
    size_t fed = 0;
    if (process->input.fd < 0 || process->input_ending)
        fed = size;
    else if (process->queue == NULL)
        fed = feed(process, data, size);
    process->consumed += (uint32_t)fed;
    if (fed < size)
        enqueue(process, data + fed, size - fed);
    return true;
}

/* A terminal cannot be closed in one direction: its end of input is a character, as if typed, and more may follow. */
static void type_end(struct process *process) {
    struct termios modes;
    uint8_t end = tcgetattr(process->input.fd, &modes) == 0 ? modes.c_cc[VEOF] : END_OF_FILE;
    process->input_ending = feed(process, &end, 1) == 0;
}

static void end_input_if_drained(struct process *process) {
    if (process->queue != NULL || !process->input_ending || process->input.fd < 0)
        return;
    if (process->terminal)
        type_end(process);
    else
        flow_close_input(process);
}

void flow_input_end(struct process *process) {
    process->input_ending = process->input.fd >= 0;
    end_input_if_drained(process);
}

void flow_input_ready(struct process *process) {
    if (process->queue != NULL) {
        size_t fed = feed(process, process->queue + process->queue_from, queued(process));
        process->queue_from += fed;
        process->consumed += (uint32_t)fed;
        if (queued(process) == 0)
            drop_queue(process);
    }
    end_input_if_drained(process);
}

bool flow_wants_input(const struct process *process) {
    return process->input.fd >= 0 && (process->queue != NULL || process->input_ending);
}

void flow_grant(struct process *process) {
    uint8_t amount[4];
    if (process->consumed < GRANT)
        return;
    put_u32(amount, process->consumed);
    if (!control_send(GUEST_INPUT_CREDIT, process->stream, amount, sizeof amount))
        return;
    process->window += process->consumed;
    process->consumed = 0;
}

static bool drops(const struct process *process, const struct output *output) {
    return process->ended || output->kept >= process->keep;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* How many bytes to read next; 0 means wait. */
static size_t appetite(const struct process *process, const struct output *output) {
    uint64_t bound = PAYLOAD_MAX;
    if (output->source.fd < 0)
        return 0;
    if (process_has_exited(process) && !process->ended)
        bound = least(bound, output->left);
    if (drops(process, output))
        return bound;
    bound = least(least(bound, process->credit), process->keep - output->kept);
    return bound == 0 ? 0 : least(bound, control_space());
}

bool flow_wants_output(const struct process *process, const struct output *output) {
    return appetite(process, output) > 0;
}

static void deliver(struct process *process, struct output *output, size_t size) {
    control_push(output->kind, process->stream, size);
    output->kept += size;
    process->credit -= size;
}

bool flow_output(struct process *process, struct output *output) {
    size_t bound = appetite(process, output);
    if (bound == 0)
        return false;
    bool dropping = drops(process, output);
    ssize_t got = read(output->source.fd, dropping ? scratch : control_payload(), bound);
    if (got <= 0) {
        output->left = 0;
        if (got == 0 || errno != EAGAIN)
            source_close(&output->source);
        return false;
    }
    if (process_has_exited(process) && !process->ended)
        output->left -= (uint64_t)got;
    if (!dropping)
        deliver(process, output, (size_t)got);
    else if (!process->ended)
        output->dropped += (uint64_t)got;
    return true;
}

/* A pipe says how much it holds; a terminal only whether it holds anything. */
static uint64_t waiting(const struct process *process, const struct output *output) {
    struct pollfd source = {.fd = output->source.fd, .events = POLLIN};
    int count = 0;
    if (output->source.fd < 0)
        return 0;
    if (process->terminal)
        return poll(&source, 1, 0) > 0 && (source.revents & POLLIN) ? TERMINAL_BOUND : 0;
    return ioctl(output->source.fd, FIONREAD, &count) < 0 ? 0 : (uint64_t)count;
}

/* What background children write later does not belong to the process, so the amount is taken first. */
void flow_last_output(struct process *process) {
    for (int i = 0; i < 2; i++)
        process->output[i].left = waiting(process, &process->output[i]);
    for (int i = 0; i < 2; i++)
        while (process->output[i].left > 0 && flow_output(process, &process->output[i]))
            ;
}

bool flow_is_done(struct process *process) {
    for (int i = 0; i < 2; i++)
        process->output[i].left = least(process->output[i].left, waiting(process, &process->output[i]));
    return process->output[0].left == 0 && process->output[1].left == 0;
}
