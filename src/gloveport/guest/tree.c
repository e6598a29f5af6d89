/* Which process belongs to which stream, and signals to all of them. No fork is needed for any of it. */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    ROUNDS = 200,     /* of killing; each but the first waits a millisecond */
    QUIET = 2,        /* rounds in a row that must find nobody */
    PASS_TIME = 250,  /* milliseconds, lest a fork bomb runs on ahead of one pass for ever */
    FEW_ENTRIES = 64, /* bytes of directory read at once: two processes, so that each is looked at while it is there */
};

static struct {
    int proc;
    uint64_t base; /* the upper half of every mark: it tells two guestds of one host apart */
    struct member *members;
    size_t count, room;
} state = {.proc = -1};

static _Noreturn void fail(void) {
    guestd_end(1, "cannot see the processes");
}

void tree_setup(void) {
    struct rlimit mark;
    state.base = (uint64_t)getpid() << 32;
    state.proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (state.proc < 0)
        fail();
    if (getrlimit(RLIMIT_LOCKS, &mark) < 0 || mark.rlim_max != RLIM_INFINITY)
        guestd_end(1, "RLIMIT_LOCKS is limited");
}

uint64_t tree_mark(uint32_t stream) {
    return state.base | stream;
}

struct entries {
    size_t at, size;
    uint8_t bytes[FEW_ENTRIES] __attribute__((aligned(8)));
};

static void rewind_entries(struct entries *entries) {
    entries->at = entries->size = 0;
    if (lseek(state.proc, 0, SEEK_SET) < 0)
        fail();
}

/* The next process in /proc, by rising pid; 0 at the end. */
static pid_t next_process(struct entries *entries) {
    enum { RECORD_SIZE = 16, NAME = 19 }; /* struct linux_dirent64: where its length and its name stand */
    for (;;) {
        if (entries->at == entries->size) {
            long got = syscall(SYS_getdents64, state.proc, entries->bytes, sizeof entries->bytes);
            if (got < 0)
                fail();
            if (got == 0)
                return 0;
            entries->at = 0;
            entries->size = (size_t)got;
        }
        const uint8_t *record = entries->bytes + entries->at;
        entries->at += get_u16(record + RECORD_SIZE);
        pid_t pid = (pid_t)strtol((const char *)record + NAME, NULL, 10);
        if (pid > 0)
            return pid;
    }
}

enum belonging { STRANGER, VANISHED, OURS };

/* The mark cannot be shed: it is inherited, and the filter keeps everybody else from setting it. */
static enum belonging belonging_of(pid_t pid, uint32_t *stream) {
    struct rlimit mark;
    if (syscall(SYS_prlimit64, pid, RLIMIT_LOCKS, NULL, &mark) < 0)
        return errno == ESRCH ? VANISHED : STRANGER;
    *stream = (uint32_t)mark.rlim_cur;
    return mark.rlim_cur >> 32 == state.base >> 32 ? OURS : STRANGER;
}

/* A process whose first thread has ended is called a zombie while others run on. */
static bool is_dead(pid_t pid) {
    char text[512], path[32], status;
    long threads;
    snprintf(path, sizeof path, "%d/stat", pid);
    int fd = openat(state.proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT && errno != ESRCH)
        fail();
    ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (size <= 0)
        return true;
    text[size] = 0;
    /* The name in parentheses is the process's own choice and may hold anything, parentheses too. */
    const char *after_name = strrchr(text, ')');
    static const char *const format = ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %ld";
    if (after_name == NULL || sscanf(after_name, format, &status, &threads) != 2)
        return false;
    return (status == 'Z' || status == 'X') && threads <= 1;
}

static bool add_member(struct member member) {
    if (state.count == state.room) {
        size_t room = state.room > 0 ? 2 * state.room : 256;
        struct member *members = realloc(state.members, room * sizeof *members);
        if (members == NULL)
            return false;
        state.members = members;
        state.room = room;
    }
    state.members[state.count++] = member;
    return true;
}

struct member *census(size_t *count) {
    struct entries entries;
    struct member member;
    rewind_entries(&entries);
    state.count = 0;
    while ((member.pid = next_process(&entries)) != 0)
        if (belonging_of(member.pid, &member.stream) == OURS && !add_member(member))
            fail();
    *count = state.count;
    return state.members;
}

/* After any signal but these the process runs on, to act on it. */
static void signal_one(pid_t pid, int number) {
    kill(pid, number);
    if (number != SIGKILL && number != SIGSTOP && number != SIGCONT)
        kill(pid, SIGCONT);
}

/* Signals the tree once, each as soon as it is found: new pids are mostly higher, so who forks ahead is met further on.
 * Whether there certainly was nobody left to signal. */
static bool pass(uint32_t stream, int number) {
    struct entries entries;
    bool nobody = true;
    int64_t deadline = guestd_clock() + PASS_TIME;
    rewind_entries(&entries);
    for (pid_t pid; (pid = next_process(&entries)) != 0;) {
        uint32_t theirs;
        enum belonging belonging = belonging_of(pid, &theirs);
        if (belonging == VANISHED)
            nobody = false; /* it may have left a child where this pass has been */
        if (belonging == OURS && (stream == TREE_ALL || theirs == stream)) {
            signal_one(pid, number);
            nobody = nobody && is_dead(pid);
        }
        if (guestd_clock() > deadline)
            return false;
    }
    return nobody;
}

static void kill_tree(uint32_t stream) {
    for (int round = 0, quiet = 0; round < ROUNDS && quiet < QUIET; round++) {
        if (round > 0)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        quiet = pass(stream, SIGKILL) ? quiet + 1 : 0;
    }
}

void tree_signal(uint32_t stream, int number) {
    if (number == SIGKILL)
        kill_tree(stream);
    else
        pass(stream, number);
}
