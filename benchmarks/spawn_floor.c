/*
 * The floor of running commands: how many a second can a program in C start, read and
 * reap? One thread, COUNT commands, IN_FLIGHT of them at once, each in a session of its
 * own, stdin from /dev/null, stdout and stderr in a pipe each, both read to their end.
 *
 *     spawn_floor COUNT IN_FLIGHT PROGRAM
 *
 * Prints commands per second and the CPU time of this process in microseconds per
 * command. Exits with 1 if a command fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_IN_FLIGHT = 1024 };

extern char **environ;

static pid_t pids[MAX_IN_FLIGHT];
static int streams_open[MAX_IN_FLIGHT];
/* Slot i reads from watched[2 * i] and watched[2 * i + 1]; poll skips an fd of -1. */
static struct pollfd watched[2 * MAX_IN_FLIGHT];
static char buffer[65536];

static void fail(const char *what, int error)
{
    fprintf(stderr, "spawn_floor: %s: %s\n", what, strerror(error));
    exit(1);
}

static void make_pipe(int ends[2])
{
#ifdef __linux__
    if (pipe2(ends, O_CLOEXEC) < 0)
        fail("pipe2", errno);
#else
    if (pipe(ends) < 0)
        fail("pipe", errno);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
#endif
}

static void start(int slot, char *program, const posix_spawnattr_t *attributes)
{
    int out[2], err[2], error;
    char *argv[] = {program, NULL};
    posix_spawn_file_actions_t actions;

    make_pipe(out);
    make_pipe(err);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
    error = posix_spawn(&pids[slot], program, &actions, attributes, argv, environ);
    if (error)
        fail(program, error);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    watched[2 * slot].fd = out[0];
    watched[2 * slot + 1].fd = err[0];
    streams_open[slot] = 2;
}

/* Read once from stream `i`; return whether it was at its end, and is closed now. */
static int drain(int i)
{
    ssize_t size = read(watched[i].fd, buffer, sizeof buffer);

    if (size > 0 || (size < 0 && errno == EINTR))
        return 0;
    close(watched[i].fd);
    watched[i].fd = -1;
    return 1;
}

static void reap(int slot)
{
    int status;

    while (waitpid(pids[slot], &status, 0) < 0)
        if (errno != EINTR)
            fail("waitpid", errno);
    if (status != 0) {
        fprintf(stderr, "spawn_floor: a command failed, status %d\n", status);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int count = argc == 4 ? atoi(argv[1]) : 0;
    int in_flight = argc == 4 ? atoi(argv[2]) : 0;
    int started = 0, done = 0;
    struct timespec from, to;
    struct rusage usage;
    posix_spawnattr_t attributes;
    double wall, cpu;

    if (count < 1 || in_flight < 1 || in_flight > MAX_IN_FLIGHT) {
        fprintf(stderr, "usage: spawn_floor COUNT IN_FLIGHT PROGRAM\n");
        return 2;
    }
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    for (int i = 0; i < 2 * in_flight; i++) {
        watched[i].fd = -1;
        watched[i].events = POLLIN;
    }

    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int slot = 0; slot < in_flight && started < count; slot++, started++)
        start(slot, argv[3], &attributes);
    while (done < count) {
        if (poll(watched, 2 * (nfds_t)in_flight, -1) < 0 && errno != EINTR)
            fail("poll", errno);
        for (int slot = 0; slot < in_flight; slot++) {
            if (!streams_open[slot])
                continue;
            for (int i = 2 * slot; i < 2 * slot + 2; i++)
                if (watched[i].fd >= 0 && watched[i].revents)
                    streams_open[slot] -= drain(i);
            if (streams_open[slot])
                continue;
            reap(slot);
            done++;
            if (started < count) {
                start(slot, argv[3], &attributes);
                started++;
                watched[2 * slot].revents = watched[2 * slot + 1].revents = 0;
            }
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);

    getrusage(RUSAGE_SELF, &usage);
    wall = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
          (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    printf("%.1f %.1f\n", count / wall, cpu / count);
    return 0;
}
