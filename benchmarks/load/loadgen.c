/*
 * Load on one address: single-threaded epoll, keep-alive, closed loop (or paced at -r RATE with -c 1).
 * Every answer is read and checked; one line of JSON at the end tells counts, latencies and the first error.
 *
 * Usage: loadgen -p PORT [-u PATH] -f BODYFILE -c CONNECTIONS (-n REQUESTS | -d SECONDS)
 *                [-r RATE] [-w WARMUP_REQUESTS] [-e EXPECTED_EVENTS] [-H HEADER]...
 *                [-M TEXT_OF_EVERY_EVENT] [-C TEXT_OF_THE_CLOSING_EVENT]
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
typedef struct {
    int fd;
    size_t off;
    char *buf;
    size_t len, cap;
    size_t pos;
    int hdr;
    long cl;
    int chunked;
    char *body;
    size_t bl, bcap;
    int64_t t0, tf;
    int busy;
    int cstate;
    long crem;
    int reads;
    int status;
    int wantout;
    int closeafter;
} conn;
static char *req;
static size_t reql;
static int ep, port, conc = 1, expect = -1;
static const char *marker = "data: ", *closing = "[DONE]";
static long N = 0;
static double D = 0, rate = 0;
static long W = 0;
static long started = 0, done = 0, errs = 0, bad = 0, incomplete = 0;
static long long bytes = 0, events = 0, reads = 0;
static long minev = 1 << 30, maxev = 0;
static double *lat, *ttf;
static long nl = 0, capl;
static int64_t tstart = 0, tend = 0;
static char errmsg[600];
static int64_t now()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void copen(conn * c)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET,.sin_port = htons(port),.sin_addr.s_addr =
            htonl(INADDR_LOOPBACK) };
    if (connect(c->fd, (void *) &a, sizeof a)) {
        perror("connect");
        exit(2);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, 4);
    int fl = SOCK_NONBLOCK;
    (void) fl;
    extern int fcntl(int, int, ...);
    fcntl(c->fd, 4, 04000 | 02);
    struct epoll_event e = {.events = EPOLLIN,.data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    c->wantout = 0;
    c->len = c->pos = 0;
}

static void want(conn * c, int o)
{
    if (c->wantout == o)
        return;
    c->wantout = o;
    struct epoll_event e = {.events = EPOLLIN | (o ? EPOLLOUT : 0),.data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static void push(conn * c)
{
    while (c->off < reql) {
        ssize_t n = send(c->fd, req + c->off, reql - c->off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                want(c, 1);
                return;
            }
            break;
        }
        c->off += n;
    }
    want(c, 0);
}

static int more()
{
    if (N)
        return started < N + W;
    return 1;
}

static void start(conn * c)
{
    if (!more() || (D > 0 && tend && now() >= tend)) {
        c->busy = 0;
        return;
    }
    started++;
    c->busy = 1;
    c->off = 0;
    c->hdr = 0;
    c->cl = -1;
    c->chunked = 0;
    c->bl = 0;
    c->tf = 0;
    c->cstate = 0;
    c->crem = 0;
    c->reads = 0;
    c->closeafter = 0;
    c->len = c->pos = 0;
    c->t0 = now();
    push(c);
}

static void finish(conn * c, int ok)
{
    int64_t t = now();
    done++;
    c->busy = 0;
    long evn = 0;
    if (ok) {
        if (c->status != 200) {
            bad++;
            if (!errmsg[0]) {
                size_t k = c->bl < 300 ? c->bl : 300;
                snprintf(errmsg, sizeof errmsg, "status %d: %.*s", c->status, (int) k, c->body);
            }
        }
        if (expect >= 0) {
            char *p = c->body, *e = c->body + c->bl;
            size_t step = strlen(marker);
            while ((p = memmem(p, e - p, marker, step))) {
                evn++;
                p += step;
            }
            if (evn < expect || !memmem(c->body, c->bl, closing, strlen(closing)))
                incomplete++;
        }
    } else {
        errs++;
        if (!errmsg[0])
            snprintf(errmsg, sizeof errmsg, "conn closed, status %d got %zu", c->status, c->bl);
    }
    if (done == W) {
        tstart = now();
        if (D > 0)
            tend = tstart + (int64_t) (D * 1e9);
        bytes = events = reads = 0;
        errs = bad = incomplete = 0;
        minev = 1 << 30;
        maxev = 0;
    }
    if (done > W) {
        bytes += c->bl;
        events += evn;
        reads += c->reads;
        if (evn < minev)
            minev = evn;
        if (evn > maxev)
            maxev = evn;
        if (c->t0 >= tstart || 1) {
            if (nl < capl) {
                lat[nl] = (t - c->t0) / 1e3;
                ttf[nl] = c->tf ? (c->tf - c->t0) / 1e3 : 0;
                nl++;
            }
        }
    }
}

static void addbody(conn * c, const char *p, size_t n)
{
    if (!n)
        return;
    if (!c->tf)
        c->tf = now();
    if (c->bl + n > c->bcap) {
        c->bcap = (c->bl + n) * 2;
        c->body = realloc(c->body, c->bcap);
    }
    memcpy(c->body + c->bl, p, n);
    c->bl += n;
}

// returns 1 when response complete
static int parse(conn * c, int eof)
{
    if (!c->hdr) {
        char *e = memmem(c->buf, c->len, "\r\n\r\n", 4);
        if (!e)
            return 0;
        c->status = atoi(c->buf + 9);
        if (c->status == 100) {
            size_t k = e - c->buf + 4;
            memmove(c->buf, c->buf + k, c->len - k);
            c->len -= k;
            return parse(c, eof);
        }
        for (char *p = c->buf; p < e;) {
            char *q = memchr(p, '\n', e + 2 - p);
            if (!q)
                break;
            if (!strncasecmp(p, "content-length:", 15))
                c->cl = atol(p + 15);
            else if (!strncasecmp(p, "transfer-encoding:", 18) && memmem(p, q - p, "chunked", 7))
                c->chunked = 1;
            else if (!strncasecmp(p, "connection:", 11) && memmem(p, q - p, "close", 5))
                c->closeafter = 1;
            p = q + 1;
        }
        c->hdr = 1;
        c->pos = e - c->buf + 4;
    }
    if (c->chunked) {
        for (;;) {
            size_t av = c->len - c->pos;
            if (!av)
                break;
            if (c->cstate == 0) {
                char *q = memmem(c->buf + c->pos, av, "\r\n", 2);
                if (!q)
                    break;
                c->crem = strtol(c->buf + c->pos, NULL, 16);
                c->pos = q - c->buf + 2;
                c->cstate = c->crem ? 1 : 3;
            } else if (c->cstate == 1) {
                size_t k = av < (size_t) c->crem ? av : (size_t) c->crem;
                addbody(c, c->buf + c->pos, k);
                c->pos += k;
                c->crem -= k;
                if (!c->crem)
                    c->cstate = 2;
            } else if (c->cstate == 2) {
                if (av < 2)
                    break;
                c->pos += 2;
                c->cstate = 0;
            } else {
                if (av < 2)
                    break;
                c->pos += 2;
                return 1;
            }
        }
        if (c->pos) {
            memmove(c->buf, c->buf + c->pos, c->len - c->pos);
            c->len -= c->pos;
            c->pos = 0;
        }
        return 0;
    }
    addbody(c, c->buf + c->pos, c->len - c->pos);
    c->len = c->pos = 0;
    if (c->cl >= 0)
        return c->bl >= (size_t) c->cl;
    return eof;
}

static int cmp(const void *a, const void *b)
{
    double x = *(double *) a, y = *(double *) b;
    return x < y ? -1 : x > y;
}

static double pct(double *a, long n, double q)
{
    if (!n)
        return 0;
    long i = (long) (q * (n - 1) + .5);
    return a[i];
}

int main(int ac, char **av)
{
    signal(SIGPIPE, SIG_IGN);
    char *path = "/v1/chat/completions", *file = NULL;
    char hdrs[4096] = "";
    int o;
    while ((o = getopt(ac, av, "p:u:f:c:n:d:r:w:e:H:M:C:")) != -1)
        switch (o) {
        case 'p':
            port = atoi(optarg);
            break;
        case 'u':
            path = optarg;
            break;
        case 'f':
            file = optarg;
            break;
        case 'c':
            conc = atoi(optarg);
            break;
        case 'n':
            N = atol(optarg);
            break;
        case 'd':
            D = atof(optarg);
            break;
        case 'r':
            rate = atof(optarg);
            break;
        case 'w':
            W = atol(optarg);
            break;
        case 'e':
            expect = atoi(optarg);
            break;
        case 'M':
            marker = optarg;
            break;
        case 'C':
            closing = optarg;
            break;
        case 'H':
            strcat(hdrs, optarg);
            strcat(hdrs, "\r\n");
            break;
        }
    FILE *f = fopen(file, "rb");
    fseek(f, 0, SEEK_END);
    long fl = ftell(f);
    rewind(f);
    req = malloc(fl + 8192);
    int h =
        sprintf(req,
                "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: loadgen/1\r\nAccept: */*\r\nAuthorization: Bearer sk-test-0123456789\r\nContent-Type: application/json\r\n%sContent-Length: %ld\r\n\r\n",
                path, port, hdrs, fl);
    if (fread(req + h, 1, fl, f) != (size_t) fl)
        return 3;
    reql = h + fl;
    capl = 5000000;
    lat = malloc(capl * 8);
    ttf = malloc(capl * 8);
    ep = epoll_create1(0);
    conn *cs = calloc(conc, sizeof(conn));
    for (int i = 0; i < conc; i++) {
        cs[i].cap = 1 << 20;
        cs[i].buf = malloc(cs[i].cap);
        cs[i].bcap = 65536;
        cs[i].body = malloc(65536);
        copen(&cs[i]);
    }
    tstart = now();
    if (D > 0 && !W)
        tend = tstart + (int64_t) (D * 1e9);
    int64_t nextt = tstart;
    int64_t hard = tstart + (int64_t) (((D > 0 ? D : 60) + 60) * 1e9);
    if (rate <= 0)
        for (int i = 0; i < conc; i++)
            start(&cs[i]);
    struct epoll_event es[256];
    for (;;) {
        if (now() > hard) {
            snprintf(errmsg, sizeof errmsg, "HARD TIMEOUT");
            break;
        }
        int busy = 0;
        for (int i = 0; i < conc; i++)
            busy += cs[i].busy;
        if (rate > 0) {
            if (!busy) {
                if (!more() || (D > 0 && tend && now() >= tend))
                    break;
                int64_t t = now();
                if (nextt > t) {
                    struct timespec ts = { nextt / 1000000000LL, nextt % 1000000000LL };
                    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
                } else
                    nextt = now();
                start(&cs[0]);
                nextt += (int64_t) (1e9 / rate);
                if (!cs[0].busy)
                    break;
            }
        } else if (!busy)
            break;
        int n = epoll_wait(ep, es, 256, 1000);
        for (int i = 0; i < n; i++) {
            conn *c = es[i].data.ptr;
            if (es[i].events & EPOLLOUT)
                push(c);
            if (!(es[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                continue;
            int fin = 0, eof = 0;
            for (;;) {
                if (c->len >= c->cap) {
                    c->cap *= 2;
                    c->buf = realloc(c->buf, c->cap);
                }
                ssize_t room = c->cap - c->len;
                ssize_t k = recv(c->fd, c->buf + c->len, room, 0);
                if (k < 0) {
                    if (errno == EAGAIN)
                        break;
                    eof = 1;
                    break;
                }
                if (k == 0) {
                    eof = 1;
                    break;
                }
                c->len += k;
                c->reads++;
                if (k < room)
                    break;
            }
            if (c->busy) {
                if (c->len || eof)
                    fin = parse(c, eof);
                if (fin)
                    finish(c, 1);
                else if (eof)
                    finish(c, 0);
            }
            if (eof || (fin && c->closeafter)) {
                close(c->fd);
                c->busy = 0;
                copen(c);
                if (rate <= 0)
                    start(c);
                continue;
            }
            if (fin && rate <= 0)
                start(c);
        }
    }
    int64_t te = now();
    double wall = (te - tstart) / 1e9;
    qsort(lat, nl, 8, cmp);
    qsort(ttf, nl, 8, cmp);
    double m = 0;
    for (long i = 0; i < nl; i++)
        m += lat[i];
    if (nl)
        m /= nl;
    for (char *p = errmsg; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char) *p < 32)
            *p = '\'';
    printf
        ("{\"n\":%ld,\"wall\":%.6f,\"rps\":%.2f,\"mean_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"ttfb_p50_us\":%.1f,\"ttfb_p99_us\":%.1f,\"bytes\":%lld,\"events\":%lld,\"reads\":%lld,\"minev\":%ld,\"maxev\":%ld,\"errs\":%ld,\"bad\":%ld,\"incomplete\":%ld,\"msg\":\"%s\"}\n",
         nl, wall, nl / wall, m, pct(lat, nl, .5), pct(lat, nl, .9), pct(lat, nl, .99),
         nl ? lat[nl - 1] : 0, pct(ttf, nl, .5), pct(ttf, nl, .99), bytes, events, reads,
         nl ? minev : 0, maxev, errs, bad, incomplete, errmsg);
    return 0;
}
