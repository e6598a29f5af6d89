/* Start, hardening and the loop. */
#define _GNU_SOURCE
#include "guestd.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_AT_ONCE = 64, WRITABLE_MAX = 64 };

struct settings {
    int control;
    int egress; /* 0: the guest has no way out */
    uint64_t memory;
    struct limits limits;
    const char *writable[WRITABLE_MAX];
    size_t writable_count;
};

static int loop = -1;
static struct source children = {.fd = -1, .kind = SOURCE_CHILDREN};

void source_watch(struct source *source, uint32_t events) {
    if (source->fd < 0 || source->events == events)
        return;
    int operation = source->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(loop, operation, source->fd, &event) < 0)
        guestd_end(1, "epoll_ctl");
    source->events = events;
}

void source_close(struct source *source) {
    if (source->fd < 0)
        return;
    source_watch(source, 0);
    close(source->fd);
    source->fd = -1;
}

/* As pid 1 the kernel reaches everybody in one step, which no fork can outrun. */
void guestd_signal_all(int number) {
    if (getpid() == 1)
        kill(-1, number);
    else
        tree_signal(TREE_ALL, number);
}

_Noreturn void guestd_end(int status, const char *why) {
    static bool ending;
    if (!ending) { /* it may be just that nobody can be seen */
        ending = true;
        guestd_signal_all(SIGKILL);
    }
    if (why != NULL)
        dprintf(STDERR_FILENO, "guestd: %s\n", why);
    _exit(status);
}

static _Noreturn void refuse(const char *why) {
    dprintf(STDERR_FILENO, "guestd: %s: %s\n", why, strerror(errno));
    _exit(1);
}

int64_t guestd_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static uint64_t number(const char *text, uint64_t most) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != 0 || errno != 0 || value > most) {
        errno = EINVAL;
        refuse(text);
    }
    return value;
}

static struct settings parse_command_line(int argc, char **argv) {
    struct settings settings = {.control = 3};
    int option;
    while ((option = getopt(argc, argv, "f:e:m:p:n:s:d:w:v")) != -1) {
        switch (option) {
        case 'f':
            settings.control = (int)number(optarg, INT_MAX);
            break;
        case 'e':
            settings.egress = (int)number(optarg, INT_MAX);
            break;
        case 'm':
            settings.memory = number(optarg, UINT64_MAX);
            break;
        case 'p':
            settings.limits.processes = number(optarg, UINT64_MAX);
            break;
        case 'n':
            settings.limits.files = number(optarg, UINT64_MAX);
            break;
        case 's':
            settings.limits.file_size = number(optarg, UINT64_MAX);
            break;
        case 'd':
            settings.limits.data = number(optarg, UINT64_MAX);
            break;
        case 'w':
            if (settings.writable_count == WRITABLE_MAX) {
                errno = E2BIG;
                refuse("-w");
            }
            settings.writable[settings.writable_count++] = optarg;
            break;
        case 'v':
            dprintf(STDOUT_FILENO, "landlock %d\n", landlock_version());
            _exit(0);
        default:
            _exit(64);
        }
    }
    if (optind != argc || settings.control < 3) {
        errno = EINVAL;
        refuse("usage: guestd [-f FD] [-e FD] [-m BYTES] [-p PROCESSES] [-n FILES] [-s FILESIZE] [-d BYTES] "
               "[-w PATH]... | -v");
    }
    return settings;
}

/* Children get 0 to 2 by dup2, so nothing of guestd's own may live there. */
static void fill_standard_descriptors(void) {
    int fd;
    do
        fd = open("/", O_PATH | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd < 0)
        refuse("/");
    close(fd);
}

void guestd_close_range(unsigned first, unsigned last) {
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        refuse("getrlimit");
    for (unsigned fd = first; fd <= last && fd < files.rlim_cur; fd++)
        close((int)fd);
}

static void take_control_descriptor(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        refuse("control descriptor");
    guestd_close_range(3, (unsigned)fd - 1);
    guestd_close_range((unsigned)fd + 1, ~0U);
}

/* First in line when the host runs out of memory, and so is every descendant. Dumpable owns the file, so it comes
 * before that goes. */
static void volunteer_for_oom(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t ignored = write(fd, "1000", 4);
    (void)ignored;
    close(fd);
}

/* Nobody may get before guestd by a priority, and a group of its own keeps calls on groups away from it. */
static void harden(void) {
    struct rlimit none = {0, 0};
    volunteer_for_oom();
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0 ||
        setrlimit(RLIMIT_NICE, &none) < 0 || setrlimit(RLIMIT_RTPRIO, &none) < 0)
        refuse("prctl");
    setpgid(0, 0); /* fails for the leader of a session, who has one */
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    umask(022);
}

/* Everything is blocked and nothing ignored, so that children only have to unblock. */
static void take_signals(void) {
    sigset_t all, ended;
    signals_reset();
    sigfillset(&all);
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    children.fd = -1;
    if (sigprocmask(SIG_SETMASK, &all, NULL) == 0)
        children.fd = signalfd(-1, &ended, SFD_NONBLOCK | SFD_CLOEXEC);
    if (children.fd < 0)
        refuse("signals");
}

/* The guest sets the pace of what arrives here, so one round takes only so much of it. */
static void children_ready(void) {
    struct signalfd_siginfo ignored[16];
    ssize_t got = read(children.fd, ignored, sizeof ignored);
    (void)got;
    if (processes_reap())
        raise(SIGCHLD);
}

static void handle(const struct epoll_event *event) {
    struct source *source = event->data.ptr;
    switch (source->kind) {
    case SOURCE_CONTROL:
        control_ready(event->events);
        break;
    case SOURCE_CHILDREN:
        children_ready();
        break;
    case SOURCE_INPUT:
    case SOURCE_OUTPUT:
        process_ready(source);
        break;
    }
}

static int patience(void) {
    int memory = memory_timeout(), processes = processes_timeout();
    return memory < 0 || (processes >= 0 && processes < memory) ? processes : memory;
}

int main(int argc, char **argv) {
    struct settings settings = parse_command_line(argc, argv);
    fill_standard_descriptors();
    if (settings.egress != 0 && !egress_hand_over(settings.egress, EGRESS_PORT))
        refuse("egress");
    take_control_descriptor(settings.control);
    harden();
    take_signals();
    loop = epoll_create1(EPOLL_CLOEXEC);
    if (loop < 0)
        refuse("epoll_create1");
    source_watch(&children, EPOLLIN);
    tree_setup();
    spawn_setup(&settings.limits);
    landlock_install(settings.writable, settings.writable_count);
    memory_setup(settings.memory);
    control_open(settings.control);
    for (;;) {
        struct epoll_event events[EVENTS_AT_ONCE];
        int count = epoll_wait(loop, events, EVENTS_AT_ONCE, patience());
        for (int i = 0; i < count; i++)
            handle(&events[i]);
        processes_expire();
        memory_look();
        control_flush();
        processes_sweep();
    }
}
