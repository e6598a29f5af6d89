/* Every signal back to what a new program expects. */
#ifndef GLOVEPORT_SIGNALS_H
#define GLOVEPORT_SIGNALS_H

#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By the system call: the C library refuses to touch the two signals it keeps for itself (32 and 33), and a parent that was
 * started by posix_spawn, such as GNU make, can leave just these ignored. */
static inline void signals_reset(void) {
    enum { KERNEL_SIGSET = 8 };
    static const unsigned char by_default[64]; /* the kernel's struct sigaction, all zero: SIG_DFL, no flags, no mask */
    for (int each = 1; each <= 64; each++)
        syscall(SYS_rt_sigaction, each, by_default, NULL, (size_t)KERNEL_SIGSET);
}

#endif
