/* How a process comes to life: descriptors or a terminal, then a child that runs the program (or the builtin). */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

enum { STACK = 65536, LOOK = 10 /* milliseconds between looks after a child on its way to a program */ };

/* The child's side. A program's shares the memory until it runs: the child writes what went wrong. */
struct child {
    const struct start *start;
    uint64_t mark;
    int input, output, error;
    volatile int failure;
    volatile bool cwd_failed;
};

static struct {
    struct {
        int resource;
        struct rlimit value;
    } limits[4];
    int limit_count;
    int null;
} setup = {.null = -1};

/* The limit is both soft and hard, and never above the hard limit guestd itself was given. */
static void add_limit(int resource, uint64_t value) {
    struct rlimit now;
    if (value == 0 || getrlimit(resource, &now) < 0)
        return;
    rlim_t bound = now.rlim_max == RLIM_INFINITY || value < now.rlim_max ? (rlim_t)value : now.rlim_max;
    setup.limits[setup.limit_count].resource = resource;
    setup.limits[setup.limit_count++].value = (struct rlimit){bound, bound};
}

/* guestd holds up to five descriptors a process; its children keep the limit they would have had. */
static void raise_own_files(uint64_t files_of_children) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    if (files_of_children == 0) {
        setup.limits[setup.limit_count].resource = RLIMIT_NOFILE;
        setup.limits[setup.limit_count++].value = files;
    }
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

void spawn_setup(const struct limits *limits) {
    add_limit(RLIMIT_NPROC, limits->processes);
    add_limit(RLIMIT_NOFILE, limits->files);
    add_limit(RLIMIT_FSIZE, limits->file_size);
    add_limit(RLIMIT_DATA, limits->data);
    raise_own_files(limits->files);
    filter_install();
    setup.null = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Everything between fork and the program or the builtin. 0 or an errno. */
static int become_process(struct child *child) {
    sigset_t none;
    setsid();
    if (filter_set_mark(child->mark) < 0)
        return errno;
    if ((child->start->flags & START_TERMINAL) && ioctl(child->output, TIOCSCTTY, 0) < 0)
        return errno;
    if (dup2(child->input, STDIN_FILENO) < 0 || dup2(child->output, STDOUT_FILENO) < 0 ||
        dup2(child->error, STDERR_FILENO) < 0)
        return errno;
    if (child->start->flags & START_BUILTIN) /* exec closes a program's */
        guestd_close_range(STDERR_FILENO + 1, ~0U);
    for (int i = 0; i < setup.limit_count; i++)
        if (setrlimit(setup.limits[i].resource, &setup.limits[i].value) < 0)
            return errno;
    if (chdir(child->start->cwd) < 0) {
        child->cwd_failed = true;
        return errno;
    }
    sigemptyset(&none);
    return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? errno : 0;
}

static const char *path_of(char **environment) {
    for (; *environment != NULL; environment++)
        if (strncmp(*environment, "PATH=", 5) == 0)
            return *environment + 5;
    return NULL;
}

/* Looks argv[0] up as execvp would, in the given environment. Returns only on failure, with the errno. */
static int execute(const struct start *start) {
    char candidate[PATH_MAX];
    const char *name = start->argv[0];
    if (strchr(name, '/') != NULL) {
        execve(name, start->argv, start->environment);
        return errno;
    }
    const char *path = path_of(start->environment);
    if (path == NULL || name[0] == 0)
        return ENOENT;
    int failure = ENOENT;
    for (;; path++) {
        int size = (int)strcspn(path, ":");
        const char *slash = size > 0 ? "/" : "";
        int length = snprintf(candidate, sizeof candidate, "%.*s%s%s", size, path, slash, name);
        if (length < (int)sizeof candidate) {
            execve(candidate, start->argv, start->environment);
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                return errno;
            if (errno == EACCES)
                failure = EACCES;
        }
        path += size;
        if (*path == 0)
            return failure;
    }
}

static int run_program(void *argument) {
    struct child *child = argument;
    child->failure = become_process(child);
    if (child->failure == 0)
        child->failure = execute(child->start);
    _exit(127);
}

static _Noreturn void run_builtin(struct child *child) {
    int failure = become_process(child);
    if (failure != 0) {
        dprintf(STDERR_FILENO, "%d %s\n", failure, strerror(failure));
        _exit(1);
    }
    _exit(builtin_run(child->start->argv));
}

static bool is_stopped(pid_t pid) {
    siginfo_t info = {.si_pid = 0};
    return waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

/* As vfork, which cannot be used: the guest may stop the child before it runs the program, and guestd would wait with
 * it for ever. The pipe closes when the child runs its program or is gone. */
static pid_t start_program(struct child *child) {
    int ends[2];
    char *stack = aligned_alloc(16, STACK);
    if (stack == NULL)
        return -1;
    if (pipe2(ends, O_CLOEXEC) < 0) {
        free(stack);
        return -1;
    }
    pid_t pid = clone(run_program, stack + STACK, CLONE_VM | SIGCHLD, child);
    int failure = errno;
    close(ends[1]);
    struct pollfd gone = {.fd = ends[0], .events = POLLIN};
    while (pid > 0 && poll(&gone, 1, LOOK) == 0)
        if (is_stopped(pid))
            kill(pid, SIGKILL);
    close(ends[0]);
    free(stack);
    errno = failure;
    return pid;
}

static pid_t start_builtin(struct child *child) {
    pid_t pid = fork();
    if (pid == 0)
        run_builtin(child);
    return pid;
}

/* A fresh pipe has no other flag. */
static int unblock(int fd) {
    return fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void close_fd(int fd) {
    if (fd >= 0)
        close(fd);
}

/* A pipe of which guestd's end does not block. */
static int make_pipe(int *ours, int *theirs, bool to_child) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    *ours = ends[to_child ? 1 : 0];
    *theirs = ends[to_child ? 0 : 1];
    return unblock(*ours);
}

static int open_pipes(struct child *child, struct spawned *spawned) {
    if (child->start->flags & START_INPUT) {
        if (make_pipe(&spawned->input, &child->input, true) < 0)
            return -1;
    } else if ((child->input = fcntl(setup.null, F_DUPFD_CLOEXEC, 3)) < 0) {
        return -1;
    }
    if (make_pipe(&spawned->output, &child->output, false) < 0)
        return -1;
    return make_pipe(&spawned->error, &child->error, false);
}

static int open_peer(int master) {
    int peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    int index;
    char path[32];
    if (peer >= 0 || ioctl(master, TIOCGPTN, &index) < 0)
        return peer;
    snprintf(path, sizeof path, "/dev/pts/%d", index);
    return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

/* One terminal for all three; guestd reads and writes it through two descriptors, one for each direction. */
static int open_terminal(struct child *child, struct spawned *spawned) {
    int unlock = 0;
    struct winsize size = {.ws_row = child->start->rows, .ws_col = child->start->columns};
    int master = spawned->output = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0 || ioctl(master, TIOCSWINSZ, &size) < 0)
        return -1;
    if ((spawned->input = fcntl(master, F_DUPFD_CLOEXEC, 3)) < 0)
        return -1;
    if ((child->output = open_peer(master)) < 0)
        return -1;
    child->input = fcntl(child->output, F_DUPFD_CLOEXEC, 3);
    child->error = fcntl(child->output, F_DUPFD_CLOEXEC, 3);
    return child->input < 0 || child->error < 0 ? -1 : 0;
}

int spawn(uint32_t stream, const struct start *start, struct spawned *spawned) {
    struct child child = {.start = start, .mark = tree_mark(stream), .input = -1, .output = -1, .error = -1};
    int failure = 0;
    *spawned = (struct spawned){.pid = -1, .input = -1, .output = -1, .error = -1};
    int opened = start->flags & START_TERMINAL ? open_terminal(&child, spawned) : open_pipes(&child, spawned);
    if (opened == 0)
        spawned->pid = start->flags & START_BUILTIN ? start_builtin(&child) : start_program(&child);
    if (spawned->pid < 0)
        failure = errno;
    else
        failure = child.failure;
    spawned->cwd_failed = child.cwd_failed;
    close_fd(child.input);
    close_fd(child.output);
    close_fd(child.error);
    if (failure != 0) {
        close_fd(spawned->input);
        close_fd(spawned->output);
        close_fd(spawned->error);
    }
    return failure;
}
