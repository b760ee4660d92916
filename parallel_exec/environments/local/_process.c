/*
 * What the life of a local command asks of the system, each in one call with the interpreter's
 * lock given back once: start it, read what it prints, take its exit.
 *
 * `spawn` does what `subprocess.Popen` does, but does not wait until the child has become its
 * program: that takes longer than all the rest. Whether it could, it says when it has exited
 * (`collect`), by memory that it shares until then, and not by a pipe.
 *
 * The child runs in the parent's memory while the parent goes on, on a stack of its own, but with
 * the thread-local memory of the thread that started it. So it does nothing but make system
 * calls, and those without touching `errno` (`call`). Who calls `spawn` has all signals blocked, as
 * the service thread has: so no signal reaches the child before its handlers are gone.
 *
 * Descriptors are not copied for it, which takes long where there are many, and would keep open
 * for a moment what the parent closes meanwhile. They are shared until the child takes a table of
 * its own with the three it needs; so the parent keeps its copies of these until then.
 *
 * The parent waits after all, as after vfork, where this cannot be had (`CONCURRENT`), where it is
 * told to, and where many others are on their way already.
 *
 * The import asks nothing of the system: `probe` does, before the first start.
 */
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range /* the same everywhere; missing where the headers are old */
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#ifndef __WALL
#define __WALL 0x40000000
#endif

enum {
    STREAMS = 3,
    PIPE = -1,  /* in place of a descriptor: one end of a new pipe */
    HIGH = 256, /* where the parent's ends are kept */
    AHEAD = 16, /* so many children may be on their way to their programs at once */
    STACK = 1 << 14,
    SIGNALS = 64,
    SIGNAL_SET = 8,  /* bytes of a set of signals, as the system has it */
    OUTPUTS = 2,     /* stdout and stderr */
    CHUNK = 1 << 16, /* bytes of each that are read at once */
    ENDED = 1,       /* in what `drain` says: of stdout; of stderr it is twice that */
    MORE = 4,
    LOST = 8,        /* there was no memory for what was read */
    ALONE = 16,      /* in what `collect` says: nobody is left in the group, pidfd is closed */
    FAILED = 32,     /* it has not become its program; the status is an errno, and says why */
    GROUP = 4,       /* PIDFD_SIGNAL_PROCESS_GROUP */
    BY_PIDFD = 3,    /* P_PIDFD, for waitid */
};

typedef struct {
    char **files; /* what the program may be, tried in order; all three end with NULL */
    char **argv;
    char **envp;
    const char *cwd; /* or NULL */
    int streams[STREAMS]; /* what becomes the child's 0, 1 and 2 */
    int ends[STREAMS];    /* the parent's ends of those that are pipes; else -1 */
    int theirs[STREAMS];  /* the others, until the child has them; else -1 */
    volatile int apart;   /* whether the child has descriptors of its own */
    int pidfd;
    volatile int error; /* why the child did not become the program: an errno, or 0 */
} Plan;

enum { UNUSED, BEGINNING, ON_ITS_WAY };

/*
 * A child on its way to its program, and what it needs there. Changed with Python's lock held,
 * but by the thread that begins it.
 */
typedef struct Start {
    struct Start *next;
    int state;
    pid_t pid;
    volatile pid_t in_memory; /* set to 0 by the system when the child has left our memory */
    Plan plan;
    PyObject *kept[4]; /* what the plan points into */
    _Alignas(16) char stack[STACK];
} Start;

/* A signal's action, as the system has it on what this is built for: all 0 for the default. */
typedef struct {
    void (*handler)(int);
    unsigned long rest[7];
} Action;

#if defined(__mips__) || defined(__alpha__) || defined(__sparc__)
#error "signals have other numbers or actions here"
#endif

#if defined(__x86_64__) && !defined(__ILP32__)
#define CONCURRENT 1
#else
#define CONCURRENT 0
#endif

/* Make a system call; return what it gives, or its error as a negative number. */
static long call(long number, long a, long b, long c, long d)
{
#if CONCURRENT
    register long fourth __asm__("r10") = d;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
#else
    long result = syscall(number, a, b, c, d);

    return result < 0 ? -errno : result;
#endif
}

/* In the child, with all signals blocked; afterwards none is, as after a login. */
static void reset_signals(void)
{
    const unsigned long none[SIGNAL_SET / sizeof(long)] = {0};
    Action action;

    for (int number = 1; number <= SIGNALS; number++) {
        if (call(SYS_rt_sigaction, number, 0, (long)&action, SIGNAL_SET) < 0 ||
            action.handler == SIG_DFL)
            continue;
        /* What this process ignores its children ignore, but for what Python ignores. */
        if (action.handler == SIG_IGN && number != SIGPIPE && number != SIGXFSZ)
            continue;
        if (number == SIGINT || number == SIGQUIT || number == SIGHUP) {
            action = (Action){.handler = SIG_IGN}; /* drops what came for the parent's group */
            call(SYS_rt_sigaction, number, (long)&action, 0, SIGNAL_SET);
        }
        action = (Action){0};
        call(SYS_rt_sigaction, number, (long)&action, 0, SIGNAL_SET);
    }
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)none, 0, SIGNAL_SET);
}

/*
 * In the child: have descriptors of its own, of which `streams` become 0, 1 and 2. What is higher
 * than these is not even copied, and so they are kept low; the rest is closed, at once, since
 * somebody may wait for what the parent has closed meanwhile. Returns 0, or an error as a negative
 * number.
 */
static int place_streams(Plan *plan)
{
    int *streams = plan->streams;
    int above = STREAMS, error;

    for (int i = 0; i < STREAMS; i++)
        if (streams[i] >= above)
            above = streams[i] + 1;
    if ((error = (int)call(SYS_close_range, above, ~0U, CLOSE_RANGE_UNSHARE, 0)) < 0)
        return error;
    plan->apart = 1;
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i] < STREAMS && streams[i] != i) { /* it would be overwritten */
            streams[i] = (int)call(SYS_fcntl, streams[i], F_DUPFD_CLOEXEC, STREAMS, 0);
            if (streams[i] < 0)
                return streams[i];
        }
    }
    for (int i = 0; i < STREAMS; i++) {
        error = (int)(streams[i] == i ? call(SYS_fcntl, i, F_SETFD, 0, 0)
                                      : call(SYS_dup3, streams[i], i, 0, 0));
        if (error < 0)
            return error;
    }
    return (int)call(SYS_close_range, STREAMS, ~0U, 0, 0);
}

/* In the child. Returns only if it could not become any of the files: the error. */
static int become(Plan *plan)
{
    int error = 0, absence = ENOENT, result;

    call(SYS_setsid, 0, 0, 0, 0);
    if ((result = place_streams(plan)) < 0)
        return -result;
    if (plan->cwd && (result = (int)call(SYS_chdir, (long)plan->cwd, 0, 0, 0)) < 0)
        return -result;
    reset_signals();
    for (char **file = plan->files; *file; file++) {
        result = -(int)call(SYS_execve, (long)*file, (long)plan->argv, (long)plan->envp, 0);
        if (result == ETXTBSY) /* it is the one, and will be free soon: see `Process` */
            return result;
        if (result == ENOENT || result == ENOTDIR)
            absence = result;
        else if (!error) /* the first; another of that name may be meant for us */
            error = result;
    }
    return error ? error : absence;
}

static int be_child(void *arg)
{
    Plan *plan = arg;

    plan->error = become(plan);
    return (int)call(SYS_exit_group, 127, 0, 0, 0);
}

/* Run `child` in our memory; return its process id, or -1. `plan.pidfd` is -1 without a pidfd. */
static pid_t run(int (*child)(void *), void *arg, Start *start, int flags)
{
    pid_t *in_memory = (pid_t *)&start->in_memory;
    pid_t pid;

    flags |= CLONE_VM | CLONE_FILES | CLONE_PIDFD | CLONE_CHILD_CLEARTID;
    start->in_memory = 1;
    start->plan.pidfd = -1; /* a system that does not know of them leaves it so */
    pid = clone(child, start->stack + STACK, flags, arg, &start->plan.pidfd, NULL, in_memory);
    if (pid < 0)
        start->in_memory = 0;
    return pid;
}

/* Move a descriptor up, if there is room: the low ones are for what children get. */
static int raised(int fd)
{
    int higher = fcntl(fd, F_DUPFD_CLOEXEC, HIGH);

    if (higher < 0)
        return fd;
    close(fd);
    return higher;
}

static void close_all(int *fds)
{
    for (int i = 0; i < STREAMS; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/*
 * Take the exit of a child, by its pidfd where the system knows how (Linux 5.4): its id may be
 * another's once somebody else has reaped it. Returns as waitpid does: its id, 0 or -1.
 */
static pid_t reap(pid_t pid, int pidfd, int *status, int flags)
{
    siginfo_t info = {.si_pid = 0};

    if (pidfd >= 0) {
        if (syscall(SYS_waitid, BY_PIDFD, pidfd, &info, flags | WEXITED, NULL) == 0) {
            if (info.si_pid == 0)
                return 0;
            *status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
            *status |= info.si_code == CLD_DUMPED ? 0x80 : 0;
            return pid;
        }
        if (errno == ECHILD || errno == EINTR)
            return -1;
    }
    return waitpid(pid, status, flags);
}

/* Wait until a child that has failed has exited, and reap it. */
static void wait_for(pid_t pid, int pidfd, int flags)
{
    int status;

    while (reap(pid, pidfd, &status, flags) < 0 && errno == EINTR)
        ;
}

/* Open the pipes; note the child's ends in `streams` and, to be closed later, in `theirs`. */
static int open_pipes(Plan *plan)
{
    int ends[2];

    for (int i = 0; i < STREAMS; i++) {
        if (plan->streams[i] != PIPE)
            continue;
        if (pipe2(ends, O_CLOEXEC) < 0)
            return -1;
        plan->streams[i] = plan->theirs[i] = ends[i != 0];
        plan->ends[i] = raised(ends[i == 0]);
        fcntl(plan->ends[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

/* Start the child; with `waiting`, do not return before it has become its program or failed. */
static void begin(Start *start, int waiting)
{
    Plan *plan = &start->plan;

    start->pid = -1;
    if (open_pipes(plan) < 0) {
        plan->error = errno;
    } else {
        start->pid = run(be_child, plan, start, SIGCHLD | (waiting ? CLONE_VFORK : 0));
        if (start->pid < 0)
            plan->error = errno;
    }
    if (plan->apart || !start->in_memory)
        close_all(plan->theirs);
    if (start->pid >= 0)
        plan->pidfd = raised(plan->pidfd);
}

static Start *starts; /* all there are */

/* Take back a start whose child has become its program, or has failed and was collected. */
static void give_back(Start *start)
{
    close_all(start->plan.theirs);
    free(start->plan.files);
    free(start->plan.argv);
    free(start->plan.envp);
    for (int i = 0; i < 4; i++)
        Py_CLEAR(start->kept[i]);
    start->state = UNUSED;
}

/*
 * Give back of what children needed on their way whatever they need no more. Returns how many
 * still are on it. In a forked child that is none of ours: they are the parent's.
 */
static int sweep(void)
{
    static pid_t owner;
    int left = 0, forked = owner != getpid();

    owner = getpid();
    for (Start *start = starts; start; start = start->next) {
        if (start->state == ON_ITS_WAY && (start->plan.apart || !start->in_memory))
            close_all(start->plan.theirs);
        if (start->state == ON_ITS_WAY && !start->in_memory && !start->plan.error)
            give_back(start);
        if (start->state != UNUSED && forked)
            give_back(start);
        left += start->state != UNUSED;
    }
    return left;
}

/* Return a start that nobody has, or NULL with an exception. */
static Start *take(void)
{
    Start *start = starts;

    while (start && start->state != UNUSED)
        start = start->next;
    if (!start) {
        if (!(start = calloc(1, sizeof *start))) {
            PyErr_NoMemory();
            return NULL;
        }
        start->next = starts;
        starts = start;
    }
    start->state = BEGINNING;
    start->pid = -1;
    start->plan = (Plan){.ends = {-1, -1, -1}, .theirs = {-1, -1, -1}, .pidfd = -1};
    return start;
}

/* Return why a child that has exited had not become its program, or 0. */
static int failure(pid_t pid)
{
    for (Start *start = starts; start; start = start->next) {
        int error = start->plan.error;

        if (start->state == ON_ITS_WAY && start->pid == pid && error) {
            give_back(start);
            return error;
        }
    }
    return 0;
}

/* Return the items of a tuple of bytes, which lives on while they are used. */
static char **strings(PyObject *tuple)
{
    Py_ssize_t size = PyTuple_Size(tuple);
    char **items = size < 0 ? NULL : malloc(((size_t)size + 1) * sizeof *items);

    if (!items) {
        if (size >= 0)
            PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        items[i] = PyBytes_AsString(PyTuple_GetItem(tuple, i));
        if (!items[i]) {
            free(items);
            return NULL;
        }
    }
    items[size] = NULL;
    return items;
}

/* Return a list of str as a tuple of bytes, as the file system has them. */
static PyObject *encoded(PyObject *list)
{
    Py_ssize_t size = PyList_Size(list);
    PyObject *tuple = size < 0 ? NULL : PyTuple_New(size);

    for (Py_ssize_t i = 0; tuple && i < size; i++) {
        PyObject *item = PyUnicode_EncodeFSDefault(PyList_GetItem(list, i));

        if (!item)
            Py_CLEAR(tuple);
        else
            PyTuple_SetItem(tuple, i, item);
    }
    return tuple;
}

/* Fill in the plan of a start. Returns whether that could be done. */
static int prepare(Start *start, PyObject *files, PyObject *words, PyObject *envp, PyObject *cwd)
{
    Plan *plan = &start->plan;
    PyObject *argv = encoded(words);

    Py_INCREF(files);
    Py_INCREF(envp);
    Py_INCREF(cwd);
    start->kept[0] = files;
    start->kept[1] = argv;
    start->kept[2] = envp;
    start->kept[3] = cwd;
    if (cwd != Py_None && !(plan->cwd = PyBytes_AsString(cwd)))
        return 0;
    return argv && (plan->files = strings(files)) && (plan->argv = strings(argv)) &&
           (plan->envp = strings(envp));
}

/*
 * spawn(files, argv, envp, cwd, stdin, stdout, stderr, waiting): start a program in a session of
 * its own; return its process id, a pidfd, and our ends of those of the three that are PIPE,
 * which do not block; -1 for the others. What the program may be is tried in order. Raises
 * OSError if nothing runs and that is known already, as it is if `waiting`. The calling thread
 * must have all signals blocked.
 */
static PyObject *spawn(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *files, *words, *envp, *cwd;
    int stdin_fd, stdout_fd, stderr_fd, waiting, ahead;
    Start *start;
    Plan plan;
    pid_t pid;

    if (!PyArg_ParseTuple(args, "OOOOiiip", &files, &words, &envp, &cwd, &stdin_fd, &stdout_fd,
                          &stderr_fd, &waiting))
        return NULL;
    ahead = sweep();
    if (!(start = take()))
        return NULL;
    if (!prepare(start, files, words, envp, cwd)) {
        give_back(start);
        return NULL;
    }
    start->plan.streams[0] = stdin_fd;
    start->plan.streams[1] = stdout_fd;
    start->plan.streams[2] = stderr_fd;
    if (!CONCURRENT || ahead >= AHEAD)
        waiting = 1;
    Py_BEGIN_ALLOW_THREADS
    begin(start, waiting);
    Py_END_ALLOW_THREADS
    plan = start->plan;
    pid = start->pid;
    if (waiting || pid < 0) {
        if (plan.error) {
            errno = plan.error;
            PyErr_SetFromErrno(PyExc_OSError);
            close_all(plan.ends);
            if (pid >= 0) {
                wait_for(pid, plan.pidfd, 0);
                close(plan.pidfd);
            }
        }
        give_back(start);
        if (plan.error)
            return NULL;
    } else {
        start->state = ON_ITS_WAY;
    }
    return Py_BuildValue("(liiii)", (long)pid, plan.pidfd, plan.ends[0], plan.ends[1],
                         plan.ends[2]);
}

/* Read what is in a pipe now. Returns the size, and tells in `state` how far it is. */
static Py_ssize_t read_now(int fd, char *buffer, int ended, int *state)
{
    Py_ssize_t size = 0;
    ssize_t got;

    while (size < CHUNK) {
        got = read(fd, buffer + size, (size_t)(CHUNK - size));
        if (got > 0) {
            size += got;
        } else if (got < 0 && errno == EAGAIN) {
            return size;
        } else if (got == 0 || errno != EINTR) {
            *state |= ended;
            return size;
        }
    }
    *state |= MORE;
    return size;
}

static _Thread_local char buffers[OUTPUTS][CHUNK];

/*
 * Read what is in two pipes that do not block, either of which may be -1; close them at their
 * ends. Returns how far they are.
 */
static int read_both(const int *fds, Py_ssize_t *sizes)
{
    int state = 0;

    for (int i = 0; i < OUTPUTS; i++) {
        if (fds[i] >= 0)
            sizes[i] = read_now(fds[i], buffers[i], ENDED << i, &state);
        if (state & ENDED << i)
            close(fds[i]);
    }
    return state;
}

/* Whether there was no memory for what was read; what else there is to tell must be told. */
static int no_memory(const PyObject *result)
{
    if (result || !PyErr_ExceptionMatches(PyExc_MemoryError))
        return 0;
    PyErr_Clear();
    return 1;
}

/*
 * drain(stdout, stderr): read what is in two pipes now; see `read_both`. Returns what was read
 * of each, and how far they are.
 */
static PyObject *drain(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fds[OUTPUTS], state;
    Py_ssize_t sizes[OUTPUTS] = {0, 0};
    PyObject *pieces;

    if (!PyArg_ParseTuple(args, "ii", &fds[0], &fds[1]))
        return NULL;
    sweep(); /* or a pipe would not be at its end */
    Py_BEGIN_ALLOW_THREADS
    state = read_both(fds, sizes);
    Py_END_ALLOW_THREADS
    pieces = Py_BuildValue("(NNi)", PyBytes_FromStringAndSize(buffers[0], sizes[0]),
                           PyBytes_FromStringAndSize(buffers[1], sizes[1]), state);
    return no_memory(pieces) ? Py_BuildValue("(yyi)", "", "", state | LOST) : pieces;
}

/*
 * collect(pid, pidfd, stdout, stderr): take the exit status of a child, if it has exited, and
 * what it has left in its pipes. Returns the status as waitpid gives it, None if it has not
 * exited, -1 if somebody else has reaped it; and what `drain` returns, with ALONE and FAILED.
 */
static PyObject *collect(PyObject *Py_UNUSED(module), PyObject *args)
{
    int pid, pidfd, fds[OUTPUTS], status = 0, state = 0, error;
    Py_ssize_t sizes[OUTPUTS] = {0, 0};
    pid_t done;
    PyObject *remains;

    if (!PyArg_ParseTuple(args, "iiii", &pid, &pidfd, &fds[0], &fds[1]))
        return NULL;
    sweep(); /* or a pipe would not be at its end */
    Py_BEGIN_ALLOW_THREADS
    done = reap(pid, pidfd, &status, WNOHANG);
    if (done < 0)
        status = -1;
    if (done == pid && pidfd >= 0 && /* it keeps the id of the group, now that nobody else does */
        syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, GROUP) < 0 && errno == ESRCH) {
        close(pidfd);
        state = ALONE;
    }
    if (done != 0)
        state |= read_both(fds, sizes);
    Py_END_ALLOW_THREADS
    if (done == 0)
        return Py_BuildValue("(Oyyi)", Py_None, "", "", 0);
    if ((error = failure(pid))) {
        status = error;
        state |= FAILED;
    }
    remains = Py_BuildValue("(iNNi)", status, PyBytes_FromStringAndSize(buffers[0], sizes[0]),
                            PyBytes_FromStringAndSize(buffers[1], sizes[1]), state);
    return no_memory(remains) ? Py_BuildValue("(iyyi)", status, "", "", state | LOST) : remains;
}

/*
 * tidy(): give back what children needed on their way and do not any more; in a forked child,
 * all of it. Returns whether descriptors of theirs are still open.
 */
static PyObject *tidy(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    int open = 0;

    sweep();
    for (Start *start = starts; start; start = start->next)
        for (int i = 0; i < STREAMS; i++)
            open |= start->state == ON_ITS_WAY && start->plan.theirs[i] >= 0;
    return PyBool_FromLong(open);
}

static int be_probe(void *arg)
{
    if (call(SYS_close_range, STREAMS, ~0U, CLOSE_RANGE_UNSHARE, 0) == 0)
        *(volatile int *)arg = 1;
    return (int)call(SYS_exit_group, 0, 0, 0, 0);
}

/*
 * probe(waiting): whether the system does what is needed here (Linux 5.9), and lets a child share
 * its parent's memory and says when it does no more, which emulators do not. With `waiting` as
 * after vfork. The child sends no signal at its end, and is seen by nobody who waits for any.
 * Raises OSError if that cannot be told now, for want of a descriptor, a process or memory.
 */
static PyObject *probe(PyObject *Py_UNUSED(module), PyObject *args)
{
    volatile int shared = 0;
    int waiting, works, error;
    Start *start;
    pid_t pid;

    if (!PyArg_ParseTuple(args, "p", &waiting))
        return NULL;
    if (!(start = calloc(1, sizeof *start)))
        return PyErr_NoMemory();
    waiting = waiting || !CONCURRENT;
    Py_BEGIN_ALLOW_THREADS
    pid = run(be_probe, (void *)&shared, start, waiting ? CLONE_VFORK : 0);
    error = pid < 0 ? errno : 0;
    if (pid >= 0)
        wait_for(pid, -1, __WALL);
    Py_END_ALLOW_THREADS
    works = pid >= 0 && shared && !start->in_memory && start->plan.pidfd >= 0;
    if (start->plan.pidfd >= 0)
        close(start->plan.pidfd);
    if (pid < 0 || !start->in_memory) /* else the system may still write to it */
        free(start);
    if (error == EMFILE || error == ENFILE || error == EAGAIN || error == ENOMEM) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(works);
}

static PyMethodDef methods[] = {
    {"probe", probe, METH_VARARGS, "Return whether `spawn` works here."},
    {"spawn", spawn, METH_VARARGS, "Start a program in a session of its own."},
    {"drain", drain, METH_VARARGS, "Read what is in two pipes now."},
    {"tidy", tidy, METH_NOARGS, "Give back what children needed on their way."},
    {"collect", collect, METH_VARARGS, "Take the exit status of a child, and what it left."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_process", "Starts, reads and reaps.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__process(void)
{
    return PyModule_Create(&definition);
}
