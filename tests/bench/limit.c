/* The unavoidable work of synchronous replication, and nothing else: write here and send to a peer, both fsync.
 *
 *   limit serve PORT DIRECTORY
 *   limit fsync4k HOST PORT DIRECTORY JOBS SECONDS     prints operations per second
 *   limit seqwrite HOST PORT DIRECTORY MEBIBYTES       prints MiB per second, final fsync included
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES (64 << 20)
static int file_bytes = FILE_BYTES;
#define BLOCK 4096
#define CHUNK (1 << 20)

struct header { uint64_t offset; uint32_t length; uint32_t sync; };

static void die(const char *what) { perror(what); exit(1); }

static void whole(ssize_t (*move)(int, void *, size_t), int fd, void *data, size_t length) {
    for (char *at = data; length;) {
        ssize_t moved = move(fd, at, length);
        if (moved <= 0) { if (moved < 0 && errno == EINTR) continue; pthread_exit(NULL); }
        at += moved; length -= moved;
    }
}
static ssize_t put(int fd, void *data, size_t length) { return write(fd, data, length); }
static ssize_t get(int fd, void *data, size_t length) { return read(fd, data, length); }

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static int open_file(const char *directory, const char *side, long job) {
    char name[4096];
    snprintf(name, sizeof name, "%s/limit-%s-%ld", directory, side, job);
    int fd = open(name, O_RDWR | O_CREAT, 0600);
    if (fd < 0) die(name);
    return fd;
}

static void fill(int fd) {
    char *zeros = calloc(1, CHUNK);
    for (int at = 0; at < file_bytes; at += CHUNK) if (pwrite(fd, zeros, CHUNK, at) != CHUNK) die("fill");
    fsync(fd);
    free(zeros);
}

struct served { int socket; const char *directory; long job; };

static void *serve_one(void *argument) {
    struct served served = *(struct served *)argument;
    free(argument);
    int fd = open_file(served.directory, "peer", served.job);
    char *data = malloc(CHUNK);
    for (;;) {
        struct header header;
        whole(get, served.socket, &header, sizeof header);
        if (header.length) {
            whole(get, served.socket, data, header.length);
            if (pwrite(fd, data, header.length, header.offset) != header.length) die("peer write");
        }
        if (header.sync) {
            if (fsync(fd)) die("peer fsync");
            whole(put, served.socket, "k", 1);
        }
    }
    return NULL;
}

static int serve(int port, const char *directory) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = INADDR_ANY};
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 64)) die("listen");
    puts("ready");
    fflush(stdout);
    for (long job = 0;; job++) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct served *served = malloc(sizeof *served);
        *served = (struct served){connection, directory, job % 64};
        pthread_t thread;
        pthread_create(&thread, NULL, serve_one, served);
        pthread_detach(thread);
    }
    return 0;
}

static int dial(const char *host, int port) {
    int one = 1, connection = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &at.sin_addr);
    if (connect(connection, (void *)&at, sizeof at)) die("connect");
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return connection;
}

struct job { const char *host, *directory; int port; long number; double seconds; long done; };
static pthread_barrier_t ready;

static void *run_job(void *argument) {
    struct job *job = argument;
    int connection = dial(job->host, job->port), fd = open_file(job->directory, "local", job->number);
    unsigned seed = 7 + job->number;
    char data[BLOCK], answer;
    memset(data, 'x', sizeof data);
    fill(fd);
    pthread_barrier_wait(&ready);
    for (double end = now() + job->seconds; now() < end; job->done++) {
        struct header header = {(uint64_t)(rand_r(&seed) % (file_bytes / BLOCK)) * BLOCK, BLOCK, 1};
        if (pwrite(fd, data, BLOCK, header.offset) != BLOCK) die("write");
        char frame[sizeof header + BLOCK];
        memcpy(frame, &header, sizeof header);
        memcpy(frame + sizeof header, data, BLOCK);
        whole(put, connection, frame, sizeof frame);
        if (fsync(fd)) die("fsync");
        whole(get, connection, &answer, 1);
    }
    return NULL;
}

static int fsync4k(const char *host, int port, const char *directory, int jobs, double seconds) {
    struct job all[64] = {0};
    pthread_t threads[64];
    pthread_barrier_init(&ready, NULL, jobs);
    if (jobs > 4) file_bytes = 4 * FILE_BYTES / jobs;  /* as the workload of the others */
    for (int i = 0; i < jobs; i++) {
        all[i] = (struct job){host, directory, port, i, seconds, 0};
        pthread_create(&threads[i], NULL, run_job, &all[i]);
    }
    long done = 0;
    for (int i = 0; i < jobs; i++) { pthread_join(threads[i], NULL); done += all[i].done; }
    printf("%.2f\n", done / seconds);
    return 0;
}

static int seqwrite(const char *host, int port, const char *directory, long mebibytes) {
    int connection = dial(host, port), fd = open_file(directory, "local", 99);
    if (ftruncate(fd, 0)) die("truncate");
    char *data = malloc(CHUNK), answer;
    memset(data, 'x', CHUNK);
    double start = now();
    for (long i = 0; i < mebibytes; i++) {
        struct header header = {(uint64_t)i * CHUNK, CHUNK, 0};
        whole(put, connection, &header, sizeof header);
        whole(put, connection, data, CHUNK);
        if (pwrite(fd, data, CHUNK, header.offset) != CHUNK) die("write");
    }
    struct header header = {0, 0, 1};
    whole(put, connection, &header, sizeof header);
    if (fsync(fd)) die("fsync");
    whole(get, connection, &answer, 1);
    printf("%.2f\n", mebibytes / (now() - start));
    return 0;
}

int main(int count, char **word) {
    if (count == 4 && !strcmp(word[1], "serve")) return serve(atoi(word[2]), word[3]);
    if (count == 7 && !strcmp(word[1], "fsync4k"))
        return fsync4k(word[2], atoi(word[3]), word[4], atoi(word[5]), atof(word[6]));
    if (count == 6 && !strcmp(word[1], "seqwrite")) return seqwrite(word[2], atoi(word[3]), word[4], atol(word[5]));
    fprintf(stderr, "usage: limit serve PORT DIR | fsync4k HOST PORT DIR JOBS SECONDS | seqwrite HOST PORT DIR MIB\n");
    return 2;
}
