/* The table of processes: their start, what they wait for, and their end. */
#define _GNU_SOURCE
#include "process.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

enum {
    BUCKETS = 256,
    GRACE = 1000, /* milliseconds from SIGTERM to SIGKILL for a process out of time */
    REAPED_AT_ONCE = 256,
};

static struct process *buckets[BUCKETS];
static struct process *gone;
static bool children_left;
static int64_t next_deadline; /* no process has an earlier one; 0 for none */

static struct process **bucket(uint32_t stream) {
    return &buckets[stream % BUCKETS];
}

static struct process *find(uint32_t stream) {
    struct process *each = *bucket(stream);
    while (each != NULL && each->stream != stream)
        each = each->next;
    return each;
}

static struct process *find_pid(pid_t pid) {
    for (int i = 0; i < BUCKETS; i++)
        for (struct process *each = buckets[i]; each != NULL; each = each->next)
            if (each->pid == pid)
                return each;
    return NULL;
}

static void unlink_from_table(struct process *process) {
    struct process **link = bucket(process->stream);
    while (*link != process)
        link = &(*link)->next;
    *link = process->next;
}

static bool send_exit(uint32_t stream, uint8_t how, uint8_t flags, int32_t code, uint64_t out, uint64_t err) {
    uint8_t payload[24] = {how, flags};
    put_u32(payload + 4, (uint32_t)code);
    put_u64(payload + 8, out);
    put_u64(payload + 16, err);
    return control_send(GUEST_EXIT, stream, payload, sizeof payload);
}

static void retire(struct process *process) {
    process->next = gone;
    gone = process;
}

static void finish(struct process *process) {
    if (!send_exit(process->stream, process->how, process->flags, process->code, process->output[0].dropped,
                   process->output[1].dropped))
        return;
    process->ended = true;
    unlink_from_table(process);
    flow_close_input(process);
}

/* Derives from the state what to wait for next; call after every change. */
static void settle(struct process *process) {
    if (!process->ended) {
        flow_grant(process);
        if (process_has_exited(process) && flow_is_done(process))
            finish(process);
    }
    source_watch(&process->input, flow_wants_input(process) ? EPOLLOUT : 0);
    for (int i = 0; i < 2; i++)
        source_watch(&process->output[i].source, flow_wants_output(process, &process->output[i]) ? EPOLLIN : 0);
    if (process->ended && process->output[0].source.fd < 0 && process->output[1].source.fd < 0)
        retire(process);
}

void processes_settle(void) {
    for (int i = 0; i < BUCKETS; i++)
        for (struct process *each = buckets[i], *next; each != NULL; each = next) {
            next = each->next;
            settle(each);
        }
}

void process_ready(struct source *source) {
    struct process *process = source->process;
    if (source->fd < 0)
        return;
    if (source == &process->input)
        flow_input_ready(process);
    else
        flow_output(process, source == &process->output[0].source ? &process->output[0] : &process->output[1]);
    settle(process);
}

void processes_sweep(void) {
    while (gone != NULL) {
        struct process *next = gone->next;
        free(gone);
        gone = next;
    }
}

/* A builtin has no descendants, and right after its start not yet its mark. */
static void signal_tree(const struct process *process, int number) {
    if (process->builtin)
        kill(process->pid, number);
    else
        tree_signal(process->stream, number);
}

static void record_end(struct process *process, int status) {
    process->pid = 0;
    process->how = WIFSIGNALED(status) ? EXIT_SIGNAL : EXIT_CODE;
    process->code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    process->deadline = 0;
    if (process->flags & EXIT_FLAG_TIMEOUT)
        tree_signal(process->stream, SIGKILL);
    flow_last_output(process);
    settle(process);
}

bool processes_reap(void) {
    int status;
    pid_t pid = 0;
    for (int count = 0; count < REAPED_AT_ONCE && (pid = waitpid(-1, &status, WNOHANG)) > 0; count++) {
        struct process *process = find_pid(pid);
        if (process != NULL)
            record_end(process, status);
    }
    children_left = pid >= 0;
    return pid > 0;
}

bool processes_any(void) {
    return children_left;
}

static void set_deadline(struct process *process, int64_t deadline) {
    process->deadline = deadline;
    if (next_deadline == 0 || deadline < next_deadline)
        next_deadline = deadline;
}

/* First politely, then not. */
static void expire(struct process *process, int64_t now) {
    bool first = !(process->flags & EXIT_FLAG_TIMEOUT);
    process->flags |= EXIT_FLAG_TIMEOUT;
    process->deadline = 0;
    signal_tree(process, first ? SIGTERM : SIGKILL);
    if (first)
        set_deadline(process, now + GRACE);
}

void processes_expire(void) {
    if (processes_timeout() != 0)
        return;
    int64_t now = guestd_clock();
    next_deadline = 0;
    for (int i = 0; i < BUCKETS; i++)
        for (struct process *each = buckets[i]; each != NULL; each = each->next)
            if (each->deadline != 0 && each->deadline <= now)
                expire(each, now);
            else if (each->deadline != 0)
                set_deadline(each, each->deadline);
}

int processes_timeout(void) {
    if (next_deadline == 0)
        return -1;
    int64_t left = next_deadline - guestd_clock();
    return left <= 0 ? 0 : left < INT_MAX ? (int)left : INT_MAX;
}

bool process_is_builtin(uint32_t stream) {
    const struct process *process = find(stream);
    return process != NULL && process->builtin;
}

void process_blame_memory(uint32_t stream) {
    struct process *process = find(stream);
    if (process != NULL)
        process->flags |= EXIT_FLAG_MEMORY;
}

static struct source source_of(struct process *process, enum source_kind kind, int fd) {
    return (struct source){.fd = fd, .kind = kind, .process = process};
}

static void adopt(struct process *process, const struct start *start, const struct spawned *spawned) {
    process->pid = spawned->pid;
    process->terminal = start->flags & START_TERMINAL;
    process->builtin = start->flags & START_BUILTIN;
    process->credit = start->credit;
    process->keep = start->keep;
    process->window = INPUT_WINDOW;
    process->input = source_of(process, SOURCE_INPUT, spawned->input);
    process->output[0] = (struct output){source_of(process, SOURCE_OUTPUT, spawned->output), GUEST_STDOUT, 0, 0, 0};
    process->output[1] = (struct output){source_of(process, SOURCE_OUTPUT, spawned->error), GUEST_STDERR, 0, 0, 0};
    process->next = *bucket(process->stream);
    *bucket(process->stream) = process;
    children_left = true;
    if (start->timeout > 0)
        set_deadline(process, guestd_clock() + start->timeout);
}

void process_start(uint32_t stream, const struct start *start) {
    struct spawned spawned;
    uint8_t pid[4];
    if (find(stream) != NULL)
        guestd_end(2, "stream started twice");
    struct process *process = calloc(1, sizeof *process);
    if (process == NULL)
        guestd_end(1, "out of memory");
    int failure = spawn(stream, start, &spawned);
    if (failure != 0) {
        free(process);
        send_exit(stream, EXIT_NOT_STARTED, spawned.cwd_failed ? EXIT_FLAG_DIRECTORY : 0, failure, 0, 0);
        return;
    }
    process->stream = stream;
    adopt(process, start, &spawned);
    put_u32(pid, (uint32_t)spawned.pid);
    control_send(GUEST_STARTED, stream, pid, sizeof pid);
    settle(process);
}

void process_input(uint32_t stream, const uint8_t *data, size_t size) {
    struct process *process = find(stream);
    if (process == NULL)
        return;
    if (!flow_input(process, data, size))
        guestd_end(2, "more input than granted");
    settle(process);
}

void process_input_end(uint32_t stream) {
    struct process *process = find(stream);
    if (process == NULL)
        return;
    flow_input_end(process);
    settle(process);
}

void process_signal(uint32_t stream, int number, bool tree) {
    struct process *process = find(stream);
    if (process == NULL || process_has_exited(process))
        return;
    if (tree)
        signal_tree(process, number);
    else
        kill(process->pid, number);
}

void process_resize(uint32_t stream, uint16_t rows, uint16_t columns) {
    struct process *process = find(stream);
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    if (process != NULL && process->terminal && process->output[0].source.fd >= 0)
        ioctl(process->output[0].source.fd, TIOCSWINSZ, &size);
}

void process_credit(uint32_t stream, uint32_t amount) {
    struct process *process = find(stream);
    if (process == NULL)
        return;
    process->credit += amount;
    settle(process);
}
