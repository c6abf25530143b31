/* The application behind the proxies: so quick that it is never what a request waits for.
 *
 * usage: origin PORT
 *
 * One thread, one epoll, kept-alive connections. It answers a request for an order with that order as a message of
 * 130 bytes that carries the request's number, and refuses whatever else a proxy may have made of it.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "ask.h"
#include "listen.h"

enum { CONNECTIONS = 4096, ROOM = 8192 };

static struct {
    uint32_t fill;
    char request[ROOM];
} *connections; /* by descriptor */

static char head[256];
static size_t head_size;
static time_t head_of; /* the second its date says */

static void date_the_head(void) {
    time_t second = time(NULL);
    if (second == head_of)
        return;
    char date[64];
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&second));
    head_size = (size_t)snprintf(head, sizeof head,
                                 "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: application/json\r\n"
                                 "Cache-Control: no-store\r\nContent-Length: %d\r\n\r\n",
                                 date, MESSAGE_LENGTH);
    head_of = second;
}

/* Send one answer; 0 when the socket has not taken it whole, which means that nobody reads. */
static int answer(int client, uint64_t number) {
    char whole[sizeof head + MESSAGE_LENGTH];
    date_the_head();
    memcpy(whole, head, head_size);
    message_write(whole + head_size, number);
    size_t size = head_size + MESSAGE_LENGTH;
    return send(client, whole, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static int refuse(int client) {
    static const char refusal[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    (void)!send(client, refusal, sizeof refusal - 1, MSG_NOSIGNAL);
    return 0;
}

/* Answer what has come whole; 0 when the connection is over. */
static int hear(int client) {
    char *request = connections[client].request;
    uint32_t *fill = &connections[client].fill;
    ssize_t size = recv(client, request + *fill, ROOM - 1 - *fill, 0);
    if (size <= 0)
        return 0;
    *fill += (uint32_t)size;
    request[*fill] = 0;
    for (char *end; (end = strstr(request, "\r\n\r\n"));) {
        uint64_t number;
        if (!request_read(request, &number))
            return refuse(client);
        if (!answer(client, number))
            return 0;
        *fill -= (uint32_t)(end + 4 - request);
        memmove(request, end + 4, *fill + 1);
    }
    return *fill < ROOM - 1 || refuse(client);
}

static void accept_all(int poller, int listener) {
    for (int client, one = 1; (client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = client};
        if (client >= CONNECTIONS) {
            close(client);
            continue;
        }
        connections[client].fill = 0;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poller, EPOLL_CTL_ADD, client, &wanted);
    }
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: origin PORT\n");
        return 2;
    }
    connections = calloc(CONNECTIONS, sizeof *connections);
    int listener = listen_on(atoi(arguments[1])), poller = epoll_create1(0);
    struct epoll_event ready[256], wanted = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        int found = epoll_wait(poller, ready, 256, -1);
        for (int i = 0; i < found; i++) {
            if (ready[i].data.fd == listener)
                accept_all(poller, listener);
            else if (!hear(ready[i].data.fd))
                close(ready[i].data.fd);
        }
    }
}
