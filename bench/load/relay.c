/* The least that a proxy in the tunnel's place can do: wait, read, write. No TLS, no HTTP/2, no policy.
 *
 *   relay out PORT        take what was captured, and pass it on to the original destination's address, port PORT
 *   relay in PORT IP TO   take what comes to PORT, and pass it on to IP, port TO
 *
 * Two threads with a listener and an epoll each. Prints a line when it listens, and goes on until it is ended.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter_ipv4.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 2, EVENTS = 64, STEP = 256 * 1024, CAPTURED = 15001, TUNNEL_MARK = 0x539 };

struct relay;

/* One of a relay's two sockets, and what was read from it and not yet written to the other. */
struct side {
    struct relay *relay;
    struct side *other;
    int fd;
    bool hung_up, ended;
    size_t at, have;
    char bytes[STEP];
};

struct relay {
    struct side sides[2];
    struct relay *next; /* of those that are over */
    bool over;
};

static bool outbound;
static struct sockaddr_in own, target;

_Noreturn static void fail(const char *what) {
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void set(int fd, int level, int name, int value) {
    if (setsockopt(fd, level, name, &value, sizeof value) != 0)
        fail("setsockopt");
}

/* Move what can be moved from a side to the other. Returns whether both sides are still open. */
static bool pump(struct side *from) {
    while (!from->ended) {
        if (from->have == 0) {
            ssize_t got = recv(from->fd, from->bytes, STEP, 0);
            if (got < 0)
                return errno == EAGAIN;
            if (got == 0) {
                from->ended = true;
                shutdown(from->other->fd, SHUT_WR);
                break;
            }
            from->at = 0;
            from->have = (size_t)got;
        }
        bool emptied = from->at == 0 && from->have < STEP && !from->hung_up;
        ssize_t sent = send(from->other->fd, from->bytes + from->at, from->have, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN;
        from->at += (size_t)sent;
        from->have -= (size_t)sent;
        if (emptied && from->have == 0)
            break;
    }
    return true;
}

static void watch(int events, struct side *side) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = side};
    if (epoll_ctl(events, EPOLL_CTL_ADD, side->fd, &event) != 0)
        fail("epoll_ctl");
}

static void begin(int events, int accepted) {
    struct sockaddr_in to = target;
    if (outbound) {
        socklen_t length = sizeof to;
        if (getsockopt(accepted, SOL_IP, SO_ORIGINAL_DST, &to, &length) != 0)
            fail("SO_ORIGINAL_DST");
        to.sin_port = target.sin_port;
    }
    int onward = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (onward < 0)
        fail("socket");
    set(onward, SOL_SOCKET, SO_MARK, TUNNEL_MARK);
    set(onward, IPPROTO_TCP, TCP_NODELAY, 1);
    struct relay *relay = malloc(sizeof *relay);
    if (relay == NULL)
        fail("malloc");
    relay->over = false;
    for (int i = 0; i < 2; i++) {
        struct side *side = &relay->sides[i];
        side->relay = relay;
        side->other = &relay->sides[1 - i];
        side->fd = i == 0 ? accepted : onward;
        side->hung_up = side->ended = false;
        side->have = 0;
    }
    if (connect(onward, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
        fail("connect");
    watch(events, &relay->sides[0]);
    watch(events, &relay->sides[1]);
}

static void *serve(void *unused) {
    (void)unused;
    int events = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (events < 0 || listener < 0)
        fail("socket");
    set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
    set(listener, SOL_SOCKET, SO_REUSEPORT, 1);
    set(listener, IPPROTO_TCP, TCP_NODELAY, 1); /* inherited */
    if (bind(listener, (struct sockaddr *)&own, sizeof own) != 0 || listen(listener, 4096) != 0)
        fail("listen");
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(events, EPOLL_CTL_ADD, listener, &listening) != 0)
        fail("epoll_ctl");
    puts("listens");
    fflush(stdout);
    for (;;) {
        struct epoll_event ready[EVENTS];
        struct relay *over = NULL;
        int count = epoll_wait(events, ready, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct side *side = ready[i].data.ptr;
            if (side == NULL) {
                int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (accepted >= 0)
                    begin(events, accepted);
                continue;
            }
            struct relay *relay = side->relay;
            if (relay->over)
                continue;
            side->hung_up |= (ready[i].events & (EPOLLRDHUP | EPOLLHUP)) != 0;
            bool alive = (ready[i].events & EPOLLERR) == 0;
            if (alive && (ready[i].events & (EPOLLIN | EPOLLRDHUP)) != 0)
                alive = pump(side);
            if (alive && (ready[i].events & EPOLLOUT) != 0 && side->other->have > 0)
                alive = pump(side->other);
            if (!alive || (side->ended && side->other->ended)) {
                relay->over = true;
                relay->next = over;
                over = relay;
            }
        }
        while (over != NULL) {
            struct relay *next = over->next;
            close(over->sides[0].fd);
            close(over->sides[1].fd);
            free(over);
            over = next;
        }
    }
}

int main(int count, char **words) {
    outbound = count == 3 && strcmp(words[1], "out") == 0;
    if (!outbound && (count != 5 || strcmp(words[1], "in") != 0)) {
        fputs("usage: relay out PORT | relay in PORT IP TO\n", stderr);
        return 2;
    }
    own.sin_family = target.sin_family = AF_INET;
    own.sin_addr.s_addr = outbound ? htonl(INADDR_LOOPBACK) : htonl(INADDR_ANY);
    own.sin_port = htons(outbound ? CAPTURED : (in_port_t)atoi(words[2]));
    target.sin_port = htons((in_port_t)atoi(words[outbound ? 2 : 4]));
    if (!outbound && inet_pton(AF_INET, words[3], &target.sin_addr) != 1)
        fail("IP");
    pthread_t thread;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, serve, NULL) != 0)
            fail("thread");
    pthread_join(thread, NULL);
    return 0;
}
