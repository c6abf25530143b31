/* The asking client: kept-alive HTTP/1.1 connections, each with one small request after the other, every answer checked.
 *
 * usage: ask --port P [--connections N] [--seconds S]
 *
 * One thread, one epoll. An answer is good when it is a 200 whose content is, byte for byte, the message with the
 * number of its request, and nothing after it; whatever else comes is counted as wrong and ends its connection. For
 * --seconds each connection asks again as soon as it is answered; what is under way then has PATIENCE to be answered.
 * One JSON line at the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ask.h"
#include "histogram.h"

enum { ROOM = 4096 };
#define PATIENCE 2.0

struct connection {
    int fd; /* -1 once it has ended */
    uint64_t number, asked_ns;
    uint32_t fill;
    char answer[ROOM];
};

static struct {
    int port, connections;
    double seconds;
} options = {.connections = 1, .seconds = 1};

static struct {
    uint64_t answers, wrong, broken, max_delay, last_ns;
    int busy; /* requests under way */
} seen;

static histogram delays;
static struct connection *connections;
static int poller;
static uint64_t began, next_number;

static void hang_up(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    seen.busy--;
}

static void ask(struct connection *c) {
    char request[REQUEST_LENGTH];
    c->number = next_number++;
    c->fill = 0;
    request_write(request, c->number);
    c->asked_ns = now_ns();
    if (send(c->fd, request, sizeof request, MSG_NOSIGNAL) != (ssize_t)sizeof request) {
        seen.broken++;
        hang_up(c);
    }
}

static void wrong(struct connection *c) {
    if (!seen.wrong++)
        fprintf(stderr, "ask: not the answer to request %lu:\n%.*s\n", c->number, (int)c->fill, c->answer);
    hang_up(c);
}

static void answered(struct connection *c) {
    uint64_t now = now_ns(), delay = now - c->asked_ns;
    histogram_add(delays, delay);
    if (delay > seen.max_delay)
        seen.max_delay = delay;
    seen.answers++;
    seen.last_ns = now;
    if ((double)(now - began) < options.seconds * 1e9)
        ask(c);
    else
        hang_up(c);
}

/* Judge what has come of an answer: whole and good, wrong, or not whole yet. */
static void judge(struct connection *c) {
    static const char length[] = "\r\ncontent-length:";
    char *end = strstr(c->answer, "\r\n\r\n");
    uint64_t number, stamp;
    if (!end) {
        if (c->fill == ROOM - 1)
            wrong(c);
        return;
    }
    char *said = strcasestr(c->answer, length);
    size_t content = c->fill - (size_t)(end + 4 - c->answer);
    if (memcmp(c->answer, "HTTP/1.1 200", 12) || !said || said > end || atoi(said + sizeof length - 1) != MESSAGE_LENGTH ||
        content > MESSAGE_LENGTH)
        wrong(c);
    else if (content == MESSAGE_LENGTH && (!message_read(end + 4, &number, &stamp) || number != c->number))
        wrong(c);
    else if (content == MESSAGE_LENGTH)
        answered(c);
}

static void readable(struct connection *c) {
    ssize_t size = recv(c->fd, c->answer + c->fill, ROOM - 1 - c->fill, 0);
    if (size <= 0) {
        if (size < 0 && errno == EAGAIN)
            return;
        seen.broken++;
        hang_up(c);
        return;
    }
    c->fill += (uint32_t)size;
    c->answer[c->fill] = 0;
    judge(c);
}

static void begin(struct connection *c) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    seen.busy++;
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server)) {
        perror("ask: connect");
        seen.broken++;
        hang_up(c);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted);
    ask(c);
}

static void run(void) {
    struct epoll_event ready[256];
    began = now_ns();
    for (int i = 0; i < options.connections; i++)
        begin(&connections[i]);
    while (seen.busy && (double)(now_ns() - began) < (options.seconds + PATIENCE) * 1e9) {
        int found = epoll_wait(poller, ready, 256, 100);
        for (int i = 0; i < found; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c->fd >= 0)
                readable(c);
        }
    }
}

static void report(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"answers\": %lu, \"wrong\": %lu, \"broken\": %lu, \"unanswered\": %d, \"seconds\": %.6f, "
           "\"delay_ms\": {\"median\": %.4f, \"p99\": %.4f, \"max\": %.4f}, \"client_cpu\": %.4f}\n",
           seen.answers, seen.wrong, seen.broken, seen.busy, (double)(seen.last_ns - began) / 1e9 * !!seen.answers,
           histogram_part(delays, 0.5), histogram_part(delays, 0.99), (double)seen.max_delay / 1e6,
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static void read_options(int count, char **arguments) {
    static const struct option known[] = {{"port", 1, 0, 'p'}, {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {0, 0, 0, 0}};
    for (int key; (key = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        if (key == 'p') options.port = atoi(optarg);
        else if (key == 'c') options.connections = atoi(optarg);
        else if (key == 's') options.seconds = atof(optarg);
        else exit(2);
    }
    if (!options.port || options.connections < 1 || options.seconds <= 0) {
        fprintf(stderr, "usage: ask --port P [--connections N] [--seconds S]\n");
        exit(2);
    }
}

int main(int count, char **arguments) {
    read_options(count, arguments);
    connections = calloc((size_t)options.connections, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    run();
    report();
    return seen.wrong || seen.broken || seen.busy ? 1 : 0;
}
