/*
 * A model server that costs nothing: single-threaded epoll, HTTP/1.1 with keep-alive.
 *
 * GET /props, /slots, /v1/models and /health answer as llama.cpp does, so that a gateway takes it for one;
 * POST /tokenize takes each text for three tokens, and .../input_tokens a conversation for ten.
 * A plain POST gets 1 KB of JSON; with "stream": true 200 events and [DONE], one send() each, chunked.
 * The model "mock-paced" sends one event every 5 ms; "mock-short" sends 20 events.
 *
 * Usage: upstream PORT
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <errno.h>
#include <signal.h>
#include <time.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <stdint.h>
#define NEV 200
#define PACE_NS 5000000LL
typedef struct conn {
    int fd;
    char *buf;
    size_t len, cap;
    int streaming;
    int paced;
    int idx;
    int last;
    int64_t next;               // next event index / time
    const char *out;
    size_t outlen;              // pending
    size_t scan;
    long need;
    int wantout;
    struct conn *pn, *pp;
    int inlist;
    int sent100;
    char *made;                 // an answer made for one request
} conn;
static int ep;
static char *ev[NEV + 2];
static size_t evl[NEV + 2];
static char *plain;
static size_t plainl;
typedef struct {
    const char *path;
    char *out;
    size_t len;
} page;
static page pages[5];
static conn *plist = NULL;
static long nreq = 0, nstream = 0;
static int64_t now()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void ladd(conn * c)
{
    if (c->inlist)
        return;
    c->pn = plist;
    c->pp = NULL;
    if (plist)
        plist->pp = c;
    plist = c;
    c->inlist = 1;
}

static void ldel(conn * c)
{
    if (!c->inlist)
        return;
    if (c->pp)
        c->pp->pn = c->pn;
    else
        plist = c->pn;
    if (c->pn)
        c->pn->pp = c->pp;
    c->inlist = 0;
}

static conn *dead[4096];
static int ndead = 0;
static void cclose(conn * c)
{
    if (c->fd < 0)
        return;
    ldel(c);
    close(c->fd);
    c->fd = -1;
    if (ndead < 4096)
        dead[ndead++] = c;
}

static void want(conn * c, int o)
{
    if (c->wantout == o)
        return;
    c->wantout = o;
    struct epoll_event e = {.events = EPOLLIN | (o ? EPOLLOUT : 0),.data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

// returns 1 done, 0 pending, -1 error
static int flush(conn * c)
{
    while (c->outlen) {
        ssize_t n = send(c->fd, c->out, c->outlen, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                want(c, 1);
                return 0;
            }
            return -1;
        }
        c->out += n;
        c->outlen -= n;
    }
    want(c, 0);
    return 1;
}

static int process(conn * c);
static void answer_made(conn * c, const char *body);
static void tokenize(conn * c, char *body, size_t bl);
static int pump(conn * c)
{                               // streaming progress
    int r = flush(c);
    if (r <= 0)
        return r;
    while (c->streaming) {
        if (c->paced) {
            if (c->idx > 0 && now() < c->next)
                return 1;
            c->next += PACE_NS;
        }
        c->out = ev[c->idx];
        c->outlen = evl[c->idx];
        c->idx++;
        if (c->idx == c->last)
            c->idx = NEV - 1;
        if (c->idx == NEV + 1) {
            c->streaming = 0;
            ldel(c);
        }                       // last item is [DONE] + terminator
        r = flush(c);
        if (r <= 0)
            return r;
    }
    return process(c);
}

static char *ci(char *h, size_t n, const char *k)
{
    return (char *) memmem(h, n, k, strlen(k));
}

static int process(conn * c)
{
    for (;;) {
        if (c->streaming || c->outlen)
            return 1;
        if (c->len == 0)
            return 1;
        char *e = memmem(c->buf, c->len, "\r\n\r\n", 4);
        if (!e)
            return 1;
        size_t hl = e - c->buf + 4;
        long cl = 0;
        int chunked = 0, close_ = 0, expect = 0;
        for (char *p = c->buf; p < e;) {
            char *q = memchr(p, '\n', e + 2 - p);
            if (!q)
                break;
            if (!strncasecmp(p, "content-length:", 15))
                cl = atol(p + 15);
            else if (!strncasecmp(p, "transfer-encoding:", 18) && memmem(p, q - p, "chunked", 7))
                chunked = 1;
            else if (!strncasecmp(p, "connection:", 11) && memmem(p, q - p, "close", 5))
                close_ = 1;
            else if (!strncasecmp(p, "expect:", 7))
                expect = 1;
            p = q + 1;
        }
        size_t total;
        char *body = c->buf + hl;
        size_t bl;
        if (chunked) {
            char *t = memmem(body, c->len - hl, "0\r\n\r\n", 5);
            // find true terminator: walk chunks
            char *p = body;
            char *end = c->buf + c->len;
            int done = 0;
            while (p < end) {
                char *q = memmem(p, end - p, "\r\n", 2);
                if (!q)
                    break;
                long n = strtol(p, NULL, 16);
                p = q + 2;
                if (n == 0) {
                    if (end - p >= 2) {
                        p += 2;
                        done = 1;
                    }
                    break;
                }
                p += n + 2;
            }
            (void) t;
            if (!done)
                return 1;
            total = p - c->buf;
            bl = total - hl;
        } else {
            if (expect && !c->sent100 && c->len < hl + cl) {
                c->sent100 = 1;
                send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL);
            }
            if (c->len < hl + cl) {
                if (c->cap < hl + cl + 1) {
                    c->cap = hl + cl + 65536;
                    c->buf = realloc(c->buf, c->cap);
                }
                return 1;
            }
            total = hl + cl;
            bl = cl;
        }
        c->sent100 = 0;
        nreq++;
        size_t w = bl < 600 ? bl : 600;
        char *tail = body + bl - w;
        int st = ci(body, w, "\"stream\":true") || ci(body, w, "\"stream\": true")
            || ci(tail, w, "\"stream\":true") || ci(tail, w, "\"stream\": true");
        int pc = st && (ci(body, w, "mock-paced") || ci(tail, w, "mock-paced"));
        int sh = st && (ci(body, w, "mock-short") || ci(tail, w, "mock-short"));
        int get = !memcmp(c->buf, "GET", 3);
        page *pg = &pages[4];
        if (get)
            for (int i = 0; i < 4; i++)
                if (!memcmp(c->buf + 4, pages[i].path, strlen(pages[i].path))) {
                    pg = &pages[i];
                    break;
                }
        int counts = 0;
        if (!memcmp(c->buf, "POST /tokenize", 14)) {
            counts = 1;
            tokenize(c, body, bl);
        } else if (memmem(c->buf, hl < 120 ? hl : 120, "/input_tokens ", 14)) {
            counts = 1;
            answer_made(c, "{\"input_tokens\":10}");
        }
        memmove(c->buf, c->buf + total, c->len - total);
        c->len -= total;
        if (close_) {
        }                       // peers that send Connection: close close themselves
        if (st && !counts) {
            nstream++;
            c->streaming = 1;
            c->paced = pc;
            c->idx = 0;
            c->last = sh ? 19 : -1;
            c->next = now();
            if (pc)
                ladd(c);
            return pump(c);
        }
        if (counts) {
        } else if (get) {
            c->out = pg->out;
            c->outlen = pg->len;
        } else {
            c->out = plain;
            c->outlen = plainl;
        }
        int r = flush(c);
        if (r <= 0)
            return r;
    }
}

static void answer_made(conn * c, const char *body)
{
    size_t n = strlen(body);
    free(c->made);
    c->made = malloc(n + 256);
    c->outlen =
        sprintf(c->made,
                "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                n, body);
    c->out = c->made;
}

// The texts of a request to /tokenize stand in a list, with a number between them that is no token.
static void tokenize(conn * c, char *body, size_t bl)
{
    static const char *between = "2147483647";
    long texts = 1;
    for (char *p = body; (p = memmem(p, body + bl - p, between, 10)); p += 10)
        texts++;
    char *made = malloc(texts * 32 + 64), *q = made;
    q += sprintf(q, "{\"tokens\":[1,2,3");
    while (--texts)
        q += sprintf(q, ",%s,1,2,3", between);
    strcpy(q, "]}");
    answer_made(c, made);
    free(made);
}

static void rd(conn * c)
{
    for (;;) {
        if (c->cap - c->len < 16384) {
            c->cap *= 2;
            c->buf = realloc(c->buf, c->cap);
        }
        ssize_t room = c->cap - c->len;
        ssize_t n = recv(c->fd, c->buf + c->len, room, 0);
        if (n == 0) {
            cclose(c);
            return;
        }
        if (n < 0) {
            if (errno == EAGAIN)
                break;
            cclose(c);
            return;
        }
        c->len += n;
        if (n < room)
            break;
    }
    if (process(c) < 0)
        cclose(c);
}

int main(int ac, char **av)
{
    signal(SIGPIPE, SIG_IGN);
    int port = atoi(av[1]);
    char msg[4096];
    msg[0] = 0;
    while (strlen(msg) < 700)
        strcat(msg, "The quick brown fox jumps over the lazy dog near the river bank. ");
    char body[8192];
    int bl =
        snprintf(body, sizeof body,
                 "{\"id\":\"chatcmpl-mock000000000001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":412,\"completion_tokens\":160,\"total_tokens\":572},\"system_fingerprint\":\"fp_mock\"}",
                 msg);
    plain = malloc(16384);
    plainl =
        sprintf(plain,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: mock\r\nx-request-id: 0123456789abcdef\r\ncontent-length: %d\r\n\r\n%s",
                bl, body);
    const char *bodies[5][2] = {
        { "/props",
         "{\"default_generation_settings\":{\"n_ctx\":1000000},\"total_slots\":256,\"build_info\":\"mock\"}"
         },
        { "/slots", "[]" },
        { "/v1/models",
         "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"owned_by\":\"llamacpp\",\"meta\":{}},{\"id\":\"mock-paced\",\"object\":\"model\",\"owned_by\":\"llamacpp\",\"meta\":{}},{\"id\":\"mock-short\",\"object\":\"model\",\"owned_by\":\"llamacpp\",\"meta\":{}}]}"
         },
        { "/health", "{\"status\":\"ok\"}" },
        { "",
         "{\"error\":{\"message\":\"File Not Found\",\"type\":\"not_found_error\",\"code\":404}}" }
    };
    for (int i = 0; i < 5; i++) {
        pages[i].path = bodies[i][0];
        pages[i].out = malloc(2048);
        pages[i].len =
            sprintf(pages[i].out,
                    "HTTP/1.1 %s\r\nServer: llama.cpp\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                    i < 4 ? "200 OK" : "404 Not Found", strlen(bodies[i][1]), bodies[i][1]);
    }
    for (int i = 0; i < NEV; i++) {
        char d[512];
        int n;
        if (i < NEV - 1)
            n = snprintf(d, sizeof d,
                         "data: {\"id\":\"chatcmpl-mock01\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" t%04d\"}}]}\n\n",
                         i);
        else
            n = snprintf(d, sizeof d,
                         "data: {\"id\":\"chatcmpl-mock01\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
        ev[i] = malloc(2048);
        size_t o = 0;
        if (i == 0)
            o = sprintf(ev[i],
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nserver: mock\r\ntransfer-encoding: chunked\r\n\r\n");
        evl[i] = o + sprintf(ev[i] + o, "%x\r\n%s\r\n", n, d);
    }
    ev[NEV] = strdup("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    {
        const char *s = "data: [DONE]\n\n";
        ev[NEV] = malloc(128);
        evl[NEV] = sprintf(ev[NEV], "%zx\r\n%s\r\n0\r\n\r\n", strlen(s), s);
    }
    if (ac > 2 && !strcmp(av[2], "-v"))
        fprintf(stderr, "plain body %d, event wire %zu\n", bl, evl[5]);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, 4);
    struct sockaddr_in a = {.sin_family = AF_INET,.sin_port = htons(port),.sin_addr.s_addr =
            htonl(INADDR_LOOPBACK) };
    if (bind(ls, (void *) &a, sizeof a)) {
        perror("bind");
        return 1;
    }
    listen(ls, 4096);
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN,.data.ptr = NULL };
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    struct epoll_event es[256];
    for (;;) {
        int64_t to = -1;
        if (plist) {
            int64_t m = INT64_MAX;
            for (conn * c = plist; c; c = c->pn)
                if (!c->outlen && c->next < m)
                    m = c->next;
            if (m != INT64_MAX) {
                to = m - now();
                if (to < 0)
                    to = 0;
            }
        }
        struct timespec ts = { to / 1000000000LL, to % 1000000000LL };
        int n = epoll_pwait2(ep, es, 256, to < 0 ? NULL : &ts, NULL);
        for (int i = 0; i < n; i++) {
            conn *c = es[i].data.ptr;
            if (!c) {
                for (;;) {
                    int fd = accept4(ls, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (fd < 0)
                        break;
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, 4);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    c->cap = 65536;
                    c->buf = malloc(c->cap);
                    struct epoll_event x = {.events = EPOLLIN,.data.ptr = c };
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
                } continue;
            }
            if (c->fd < 0)
                continue;
            if (es[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                rd(c);
            if (c->fd >= 0 && (es[i].events & EPOLLOUT))
                if (pump(c) < 0)
                    cclose(c);
        }
        if (plist) {
            int64_t t = now();
            for (conn * c = plist; c;) {
                conn *nx = c->pn;
                if (!c->outlen && c->next <= t)
                    if (pump(c) < 0)
                        cclose(c);
                c = nx;
            }
        }
        for (int i = 0; i < ndead; i++) {
            free(dead[i]->buf);
            free(dead[i]->made);
            free(dead[i]);
        } ndead = 0;
    }
}
