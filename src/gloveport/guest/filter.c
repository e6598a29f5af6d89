/* What no process of the guest may do though it has guestd's user: change guestd, or the mark of its own tree. */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "guestd knows the system calls of x86-64 and arm64"
#endif

enum { X32_BIT = 0x40000000, PRIORITIES_OF_USER = 2 /* PRIO_USER */, IO_OF_USER = 3 /* IOPRIO_WHO_USER */ };

/* Only guestd knows it: a system call with these two in its unused fifth and sixth argument is guestd's own. */
static uint64_t key[2];

#define LOW(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define HIGH(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, skip)
#define IF(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), skip, 0)
#define BELOW(value, skip) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)(value), 0, skip)
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ALLOW RETURN(SECCOMP_RET_ALLOW)
#define REFUSE RETURN(SECCOMP_RET_ERRNO | EPERM)

/* Pids, resources and scopes are 32 bits wide to the kernel, pointers and the key are 64. guestd is one thread, so its
 * pid is its only name; groups are named by their leader. Other architectures' calls have other numbers: no such
 * program runs. */
void filter_install(void) {
    const pid_t self = getpid();
    if (getrandom(key, sizeof key, 0) != sizeof key)
        guestd_end(1, "getrandom");
    struct sock_filter instructions[] = {
        LOW(arch), IF(NATIVE, 1), RETURN(SECCOMP_RET_KILL_PROCESS),
        LOW(nr), BELOW(X32_BIT, 1), RETURN(SECCOMP_RET_ERRNO | ENOSYS),
        /* (pid, ...) */
        IF(SYS_sched_setaffinity, 3), IF(SYS_sched_setattr, 2), IF(SYS_sched_setparam, 1),
        UNLESS(SYS_sched_setscheduler, 4),
        LOW(args[0]), UNLESS(self, 1), REFUSE, ALLOW,
        /* (scope, whom, ...) */
        UNLESS(SYS_setpriority, 6),
        LOW(args[0]), IF(PRIORITIES_OF_USER, 2), LOW(args[1]), UNLESS(self, 1), REFUSE, ALLOW,
        UNLESS(SYS_ioprio_set, 6),
        LOW(args[0]), IF(IO_OF_USER, 2), LOW(args[1]), UNLESS(self, 1), REFUSE, ALLOW,
        /* (resource, new) */
        UNLESS(SYS_setrlimit, 4),
        LOW(args[0]), UNLESS(RLIMIT_LOCKS, 1), REFUSE, ALLOW,
        /* (pid, resource, new, old): without a new one it only reads */
        UNLESS(SYS_prlimit64, 21),
        LOW(args[2]), UNLESS(0, 3), HIGH(args[2]), UNLESS(0, 1), ALLOW,
        LOW(args[0]), UNLESS(self, 1), REFUSE,
        LOW(args[1]), IF(RLIMIT_LOCKS, 1), ALLOW,
        LOW(args[4]), UNLESS(key[0], 7), HIGH(args[4]), UNLESS(key[0] >> 32, 5),
        LOW(args[5]), UNLESS(key[1], 3), HIGH(args[5]), UNLESS(key[1] >> 32, 1), ALLOW, REFUSE,
        ALLOW,
    };
    const struct sock_fprog program = {.len = sizeof instructions / sizeof *instructions, .filter = instructions};
    /* Without the flag a filter would also switch speculation off, which costs every program time. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) < 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
        guestd_end(1, "seccomp");
}

int filter_set_mark(uint64_t mark) {
    const struct rlimit value = {mark, mark};
    return (int)syscall(SYS_prlimit64, 0, RLIMIT_LOCKS, &value, NULL, key[0], key[1]);
}
