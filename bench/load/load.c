/* Load for the tunnel: a server and clients that cost as little as a socket can.
 *
 *   load serve IP PORT                       answer until standard input ends
 *   load rtt IP PORT BYTES SECONDS           one connection, one request at a time
 *   load bulk IP PORT CONNECTIONS SECONDS    each connection sends as fast as it is taken
 *   load connect IP PORT CLIENTS SECONDS     each client: connect, one byte there and back, close; again
 *   load idle IP PORT CONNECTIONS            open that many, one round trip on each, hold until standard input ends
 *   load deaf IP PORT                        take 8 MiB of each connection, then nothing, until standard input ends
 *   load swarm IP PORT CONNECTIONS SECONDS   that many connections, one small request at a time on each
 *   load stuff IP PORT CONNECTIONS           each connection sends what is taken; hold until standard input ends
 *
 * A client says first what it wants: eight bytes, the size of its messages in network order; 0 means bulk. The server
 * sends each message back whole, or counts bulk bytes and says the number when the client has ended its half, so that
 * only bytes that have arrived are counted. Results are one line of JSON. Blocking sockets and a thread for each
 * client; the server is epoll on two threads. A connection that fails ends the program with status 1: a figure with
 * failures in it is none.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 128 * 1024, SERVERS = 2, MAX_CLIENTS = 64, MAX_SAMPLES = 4 * 1024 * 1024, WARM_UP = 200 };

static struct sockaddr_in target;
static double seconds;
static size_t message_size;

_Noreturn static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0)
            fail("send");
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void receive_all(int fd, char *bytes, size_t length) {
    while (length > 0) {
        ssize_t got = recv(fd, bytes, length, 0);
        if (got < 0)
            fail("receive");
        if (got == 0) {
            errno = ECONNABORTED;
            fail("the other side ended early");
        }
        bytes += got;
        length -= (size_t)got;
    }
}

static void no_delay(int fd) {
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
        fail("TCP_NODELAY");
}

/* Connect and say the size of messages; the first of them goes along in the same segment. */
static int open_connection(uint64_t size, const char *first, size_t length) {
    char hello[8 + 1];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    no_delay(fd);
    if (connect(fd, (struct sockaddr *)&target, sizeof target))
        fail("connect");
    size = htobe64(size);
    memcpy(hello, &size, sizeof size);
    if (length > 0)
        memcpy(hello + 8, first, 1);
    send_all(fd, hello, 8 + (length > 0 ? 1 : 0));
    return fd;
}

/* --- server ------------------------------------------------------------------------------------------------------ */

struct peer {
    int fd;
    uint64_t size;     /* of messages; 0 for bulk */
    uint64_t received; /* of the hello, then of the message, then of bulk */
    int greeted;
    char *message;
};

static int listener;
static uint64_t heard = UINT64_MAX; /* bytes of each connection that are taken */

static void answer(struct peer *peer, const char *bytes, size_t length) {
    /* Messages are smaller than a socket's buffer and one at a time, so this does not wait in practice. */
    while (length > 0) {
        ssize_t sent = send(peer->fd, bytes, length, MSG_NOSIGNAL);
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN) {
            struct timespec pause = {0, 20000};
            nanosleep(&pause, NULL);
        } else {
            return;
        }
    }
}

static void drop(struct peer *peer) {
    close(peer->fd);
    free(peer->message);
    free(peer);
}

/* Take what has arrived; 0 when the connection is over. */
static int take(struct peer *peer, char *buffer) {
    ssize_t got = recv(peer->fd, buffer, CHUNK, 0);
    if (got < 0)
        return errno == EAGAIN;
    if (got == 0) {
        uint64_t total = htobe64(peer->received);
        if (peer->greeted && peer->size == 0)
            answer(peer, (char *)&total, sizeof total);
        return 0;
    }
    size_t length = (size_t)got;
    while (!peer->greeted && length > 0) {
        peer->size = peer->size << 8 | (unsigned char)*buffer++;
        length--;
        if (++peer->received == 8) {
            peer->greeted = 1;
            peer->received = 0;
            if (peer->size > 1 << 20)
                return 0;
            if (peer->size > 0 && !(peer->message = malloc(peer->size)))
                return 0;
        }
    }
    if (!peer->greeted || peer->size == 0) {
        peer->received += peer->greeted ? length : 0;
        return 1;
    }
    while (length > 0) {
        size_t part = peer->size - peer->received < length ? peer->size - peer->received : length;
        memcpy(peer->message + peer->received, buffer, part);
        peer->received += part;
        buffer += part;
        length -= part;
        if (peer->received == peer->size) {
            peer->received = 0;
            answer(peer, peer->message, peer->size);
        }
    }
    return 1;
}

static void admit(int epoll) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return; /* the other thread was faster */
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        fail("memory");
    no_delay(fd);
    peer->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        fail("epoll");
}

static void *serve(void *unused) {
    (void)unused;
    char *buffer = malloc(CHUNK);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE}, events[64];
    if (!buffer || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        fail("epoll");
    for (;;) {
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int at = 0; at < ready; at++) {
            struct peer *peer = events[at].data.ptr;
            if (!peer)
                admit(epoll);
            else if (!take(peer, buffer))
                drop(peer);
            else if (peer->received > heard)
                epoll_ctl(epoll, EPOLL_CTL_DEL, peer->fd, NULL);
        }
    }
}

static void run_server(void) {
    int on = 1;
    char end;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on))
        fail("socket");
    if (bind(listener, (struct sockaddr *)&target, sizeof target) || listen(listener, 4096))
        fail("listen");
    for (int number = 0; number < SERVERS; number++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL))
            fail("thread");
    }
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &end, 1) > 0) {
    }
}

/* --- clients ----------------------------------------------------------------------------------------------------- */

static int by_value(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void run_rtt(void) {
    uint32_t *samples = malloc(sizeof *samples * MAX_SAMPLES);
    char *message = calloc(1, message_size);
    if (!samples || !message)
        fail("memory");
    int fd = open_connection(message_size, NULL, 0);
    size_t count = 0;
    for (int warm = 0; warm < WARM_UP; warm++) {
        send_all(fd, message, message_size);
        receive_all(fd, message, message_size);
    }
    uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);
    for (uint64_t before = begin; before < end && count < MAX_SAMPLES;) {
        send_all(fd, message, message_size);
        receive_all(fd, message, message_size);
        uint64_t after = now_ns();
        samples[count++] = (uint32_t)(after - before);
        before = after;
    }
    close(fd);
    qsort(samples, count, sizeof *samples, by_value);
    printf("{\"count\": %zu, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", count + WARM_UP, samples[count / 2] / 1e3,
           samples[count * 99 / 100] / 1e3);
}

static pthread_barrier_t start;

static void *bulk(void *result) {
    char *chunk = calloc(1, CHUNK);
    if (!chunk)
        fail("memory");
    int fd = open_connection(0, NULL, 0);
    uint64_t total;
    pthread_barrier_wait(&start);
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end)
        send_all(fd, chunk, CHUNK);
    shutdown(fd, SHUT_WR);
    receive_all(fd, (char *)&total, sizeof total);
    close(fd);
    *(uint64_t *)result = be64toh(total);
    return NULL;
}

static void *connecting(void *result) {
    uint64_t count = 0;
    char byte = 'x';
    pthread_barrier_wait(&start);
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    for (; now_ns() < end; count++) {
        int fd = open_connection(1, &byte, 1);
        receive_all(fd, &byte, 1);
        close(fd);
    }
    *(uint64_t *)result = count;
    return NULL;
}

static void run_threads(void *(*work)(void *), int clients, const char *name) {
    pthread_t threads[MAX_CLIENTS];
    uint64_t results[MAX_CLIENTS], total = 0;
    if (clients < 1 || clients > MAX_CLIENTS)
        fail("number of clients");
    pthread_barrier_init(&start, NULL, (unsigned)clients + 1);
    for (int number = 0; number < clients; number++)
        if (pthread_create(&threads[number], NULL, work, &results[number]))
            fail("thread");
    pthread_barrier_wait(&start);
    uint64_t begin = now_ns();
    for (int number = 0; number < clients; number++) {
        pthread_join(threads[number], NULL);
        total += results[number];
    }
    printf("{\"%s\": %.3f}\n", name, (double)total / ((double)(now_ns() - begin) / 1e9));
}

static void run_idle(int connections) {
    char byte = 'x', end;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int number = 0; number < connections; number++) {
        int fd = open_connection(1, &byte, 1);
        receive_all(fd, &byte, 1);
    }
    puts("{\"open\": true}");
    fflush(stdout);
    while (read(STDIN_FILENO, &end, 1) > 0) {
    }
}

/* Many connections that are all busy, from one thread. */
static void run_swarm(int connections) {
    enum { SIZE = 64 };
    char message[SIZE] = {0};
    struct epoll_event events[256];
    uint64_t count = 0;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        fail("epoll");
    for (int number = 0; number < connections; number++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = open_connection(SIZE, NULL, 0)};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event))
            fail("epoll");
        send_all(event.data.fd, message, SIZE);
    }
    uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);
    while (now_ns() < end) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int at = 0; at < ready; at++, count++) {
            receive_all(events[at].data.fd, message, SIZE);
            send_all(events[at].data.fd, message, SIZE);
        }
    }
    printf("{\"per_s\": %.3f}\n", (double)count / ((double)(now_ns() - begin) / 1e9));
}

/* Fill connections until nobody takes anything for a second. */
static void run_stuff(int connections) {
    char *chunk = calloc(1, CHUNK), end;
    int epoll = epoll_create1(EPOLL_CLOEXEC), ready;
    struct epoll_event events[64];
    uint64_t total = 0;
    if (!chunk || epoll < 0)
        fail("epoll");
    for (int number = 0; number < connections; number++) {
        struct epoll_event event = {.events = EPOLLOUT, .data.fd = open_connection(0, NULL, 0)};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event))
            fail("epoll");
    }
    while ((ready = epoll_wait(epoll, events, 64, 1000)) > 0) {
        for (int at = 0; at < ready; at++) {
            ssize_t sent = send(events[at].data.fd, chunk, CHUNK, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent > 0)
                total += (uint64_t)sent;
            else if (errno != EAGAIN && epoll_ctl(epoll, EPOLL_CTL_DEL, events[at].data.fd, NULL))
                fail("epoll");
        }
    }
    printf("{\"bytes\": %llu}\n", (unsigned long long)total);
    fflush(stdout);
    while (read(STDIN_FILENO, &end, 1) > 0) {
    }
}

int main(int count, char **words) {
    if (count < 4) {
        fputs("load: serve|rtt|bulk|connect|idle|deaf|swarm|stuff IP PORT ...; see the head of load.c\n", stderr);
        return 2;
    }
    const char *what = words[1];
    int number = count > 4 ? atoi(words[4]) : 0;
    seconds = count > 5 ? atof(words[5]) : 1;
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)atoi(words[3]));
    if (inet_pton(AF_INET, words[2], &target.sin_addr) != 1)
        fail("address");
    if (!strcmp(what, "serve")) {
        run_server();
    } else if (!strcmp(what, "deaf")) {
        heard = 8 * 1024 * 1024;
        run_server();
    } else if (!strcmp(what, "swarm")) {
        run_swarm(number);
    } else if (!strcmp(what, "stuff")) {
        run_stuff(number);
    } else if (!strcmp(what, "rtt") && number > 0) {
        message_size = (size_t)number;
        run_rtt();
    } else if (!strcmp(what, "bulk")) {
        run_threads(bulk, number, "bytes_per_s");
    } else if (!strcmp(what, "connect")) {
        run_threads(connecting, number, "per_s");
    } else if (!strcmp(what, "idle")) {
        run_idle(number);
    } else {
        fputs("load: nothing known by that name\n", stderr);
        return 2;
    }
    return 0;
}
