/* The guest's way out: a listening socket on its loopback, given to the host before any program of the guest runs. */
#define _GNU_SOURCE
#include "guestd.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WAITING = 1024 };

static int listen_on_loopback(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
        listen(listener, WAITING) == 0)
        return listener;
    close(listener);
    return -1;
}

static bool give(int channel, int descriptor) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr alignment;
    } control = {{0}};
    char nothing = 0;
    struct iovec data = {&nothing, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    return sendmsg(channel, &message, 0) == 1;
}

/* The socket stays in the guest's network whoever accepts on it: nothing of the proxy is in here. */
bool egress_hand_over(int channel, uint16_t port) {
    int listener = listen_on_loopback(port);
    bool given = listener >= 0 && give(channel, listener);
    if (listener >= 0)
        close(listener);
    close(channel);
    return given;
}
