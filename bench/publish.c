/* The publisher: numbered, stamped messages at an even rate or as fast as they are taken, into RabbitMQ or over HTTP.
 *
 * usage: publish amqp PORT KEY COUNT RATE      into the topic exchange "bench" of 127.0.0.1:PORT
 *        publish http PORT PATH COUNT RATE     one POST each on one connection, pipelined (for nchan)
 *
 * RATE 0 is as fast as it goes. One message is one write: nothing is held back to be joined, so that the stamp is
 * the moment the message leaves. Prints one JSON line at the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "message.h"
#include "rabbit.h"

enum { PIPELINE = 64 }; /* POSTs under way at once at most */

static char body[MESSAGE_LENGTH];
static uint64_t latest; /* how late the worst message left, ns */

/* Wait for message `number`'s turn on an even beat that began at `began`. */
static void pace(uint64_t began, uint64_t number, double rate) {
    if (rate <= 0)
        return;
    uint64_t due = began + (uint64_t)((double)number / rate * 1e9);
    struct timespec until = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
    uint64_t now = now_ns();
    if (now - due > latest && now > due)
        latest = now - due;
}

static void into_rabbit(int port, const char *key, uint64_t count, double rate) {
    amqp_connection_state_t rabbit = rabbit_open(port);
    amqp_bytes_t bytes = {sizeof body, body}, exchange = amqp_cstring_bytes(EXCHANGE), routing = amqp_cstring_bytes(key);
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_CONTENT_TYPE_FLAG,
                                          .content_type = amqp_cstring_bytes("application/json")};
    uint64_t began = now_ns();
    for (uint64_t number = 0; number < count; number++) {
        pace(began, number, rate);
        message_write(body, number);
        if (amqp_basic_publish(rabbit, 1, exchange, routing, 0, 0, &properties, bytes)) {
            fprintf(stderr, "publish: the broker hung up\n");
            exit(1);
        }
    }
    rabbit_must(amqp_channel_close(rabbit, 1, AMQP_REPLY_SUCCESS), "close");
    amqp_connection_close(rabbit, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(rabbit);
}

/* Read what answers have come (wait for some if `wait`); how many. Each has one status line. */
static int answers(int server, int wait) {
    static char buffer[1 << 16];
    static size_t fill;
    int found = 0;
    ssize_t size = recv(server, buffer + fill, sizeof buffer - fill - 1, wait ? 0 : MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN && !wait)
        return 0;
    if (size <= 0) {
        fprintf(stderr, "publish: the server hung up\n");
        exit(1);
    }
    fill += (size_t)size;
    buffer[fill] = 0;
    char *at = buffer, *next;
    for (; (next = strstr(at, "HTTP/1.1 2")); at = next + 10)
        found++;
    fill -= (size_t)(at - buffer); /* keep a status line that is cut in two */
    memmove(buffer, at, fill);
    if (fill > 4096) {
        fprintf(stderr, "publish: not a good answer: %.200s\n", buffer);
        exit(1);
    }
    return found;
}

static int http_connect(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 10};
    int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(server, (struct sockaddr *)&address, sizeof address)) {
        perror("publish: connect");
        exit(1);
    }
    return server;
}

static void over_http(int port, const char *path, uint64_t count, double rate) {
    char request[512];
    int server = http_connect(port);
    int head = snprintf(request, sizeof request - sizeof body,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
                        path, MESSAGE_LENGTH);
    uint64_t began = now_ns(), answered = 0;
    for (uint64_t number = 0; number < count; number++) {
        pace(began, number, rate);
        while (number - answered >= PIPELINE)
            answered += (uint64_t)answers(server, 1);
        message_write(body, number);
        memcpy(request + head, body, sizeof body);
        if (send(server, request, (size_t)head + sizeof body, MSG_NOSIGNAL) < 0) {
            perror("publish: send");
            exit(1);
        }
        answered += (uint64_t)answers(server, 0);
    }
    while (answered < count)
        answered += (uint64_t)answers(server, 1);
    close(server);
}

int main(int count, char **arguments) {
    if (count != 6) {
        fprintf(stderr, "usage: publish amqp|http PORT KEY|PATH COUNT RATE\n");
        return 2;
    }
    int port = atoi(arguments[2]), http = arguments[1][0] == 'h';
    uint64_t messages = strtoull(arguments[4], NULL, 10), began = now_ns();
    (http ? over_http : into_rabbit)(port, arguments[3], messages, atof(arguments[5]));
    printf("{\"published\": %lu, \"began_ns\": %lu, \"seconds\": %.4f, \"latest_ms\": %.3f}\n", messages, began,
           (double)(now_ns() - began) / 1e9, (double)latest / 1e6);
    return 0;
}
