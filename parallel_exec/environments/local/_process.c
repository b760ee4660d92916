/*
 * What the life of a local command asks of the system, each in one call with the interpreter's
 * lock given back once: start it, read what it prints, take its exit.
 *
 * `spawn` does what `subprocess.Popen` does, but for three things. The interpreter's lock is
 * given back while the child becomes its program, which takes longer than all the rest. The
 * child says by memory, not by a pipe, why it could not become one. And the parent's descriptors
 * are not copied for the child, which would only close them: with some thousand of them that
 * takes longer than to start a program.
 *
 * The child runs in the parent's memory, on a piece of the stack of the thread that waits for
 * it. So it calls nothing that is not async-signal-safe, and no signal reaches it before its
 * handlers are gone.
 */
#define PY_SSIZE_T_CLEAN
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
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

enum {
    STREAMS = 3,
    PIPE = -1,  /* in place of a descriptor: one end of a new pipe */
    HIGH = 256, /* where the parent's ends are kept */
    STACK = 1 << 14,
    OUTPUTS = 2,     /* stdout and stderr */
    CHUNK = 1 << 16, /* bytes of each that are read at once */
    ENDED = 1,       /* in what `drain` says: of stdout; of stderr it is twice that */
    MORE = 4,
    LOST = 8,        /* there was no memory for what was read */
    ALONE = 16,      /* in what `collect` says: nobody is left in the group, pidfd is closed */
    GROUP = 4, /* PIDFD_SIGNAL_PROCESS_GROUP */
};

typedef struct {
    char **files; /* what the program may be, tried in order; all three end with NULL */
    char **argv;
    char **envp;
    const char *cwd; /* or NULL */
    int streams[STREAMS]; /* what becomes the child's 0, 1 and 2 */
    int ends[STREAMS];    /* the parent's ends of those that are pipes; else -1 */
    int pidfd;
    sigset_t mask; /* the thread's */
    volatile int error; /* why the child did not become the program: an errno, or 0 */
    volatile int error_is_cwd;
} Plan;

/* In the child, with all signals blocked. */
static void reset_signals(const sigset_t *mask)
{
    struct sigaction action;

    for (int number = 1; number < NSIG; number++) {
        if (sigaction(number, NULL, &action) < 0 || action.sa_handler == SIG_DFL)
            continue;
        /* What this process ignores its children ignore, but for what Python ignores. */
        if (action.sa_handler == SIG_IGN && number != SIGPIPE && number != SIGXFSZ)
            continue;
        action.sa_handler = SIG_DFL;
        action.sa_flags = 0;
        sigaction(number, &action, NULL);
    }
    sigprocmask(SIG_SETMASK, mask, NULL);
}

/*
 * In the child, which shares the parent's descriptors: have its own, of which `streams` are 0,
 * 1 and 2, and everything else is closed by the exec. What is higher than these is not even
 * copied, and so they are kept low.
 */
static int place_streams(int *streams)
{
    int above = STREAMS;

    for (int i = 0; i < STREAMS; i++)
        if (streams[i] >= above)
            above = streams[i] + 1;
    if (syscall(SYS_close_range, above, ~0U, CLOSE_RANGE_UNSHARE) < 0)
        return -1;
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i] < STREAMS && streams[i] != i) { /* it would be overwritten */
            streams[i] = fcntl(streams[i], F_DUPFD_CLOEXEC, STREAMS);
            if (streams[i] < 0)
                return -1;
        }
    }
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i] == i ? fcntl(i, F_SETFD, 0) < 0 : dup2(streams[i], i) < 0)
            return -1;
    }
    return (int)syscall(SYS_close_range, STREAMS, ~0U, CLOSE_RANGE_CLOEXEC);
}

/* In the child. Returns only if it could not become any of the files. */
static int become(Plan *plan)
{
    int error = 0, absence = ENOENT;

    setsid();
    if (place_streams(plan->streams) < 0)
        return errno;
    if (plan->cwd && chdir(plan->cwd) < 0) {
        plan->error_is_cwd = 1;
        return errno;
    }
    reset_signals(&plan->mask);
    for (char **file = plan->files; *file; file++) {
        execve(*file, plan->argv, plan->envp);
        if (errno == ENOENT || errno == ENOTDIR)
            absence = errno;
        else if (!error) /* the first; another of that name may be meant for us */
            error = errno;
    }
    return error ? error : absence;
}

/*
 * With all signals blocked: send those that came for the process meanwhile to the main thread.
 * Unblocked, they would be handled in this one, and nothing would wake the main thread, which
 * is to run Python's handler.
 */
static void leave_signals(const sigset_t *mask)
{
    const struct timespec now = {0, 0};
    sigset_t pending, one;

    sigemptyset(&pending);
    sigpending(&pending);
    if (sigisemptyset(&pending)) /* at once: the next may come any moment */
        return;
    for (int number = 1; number < NSIG; number++) {
        if (sigismember(&pending, number) != 1 || sigismember(mask, number) == 1)
            continue;
        sigemptyset(&one);
        sigaddset(&one, number);
        if (sigtimedwait(&one, NULL, &now) == number)
            syscall(SYS_tgkill, getpid(), getpid(), number);
    }
}

/* Run `child` until it execs or exits; return its process id, or -1. */
static pid_t run(int (*child)(void *), void *arg, int *pidfd)
{
    _Alignas(16) char stack[STACK];
    const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD | SIGCHLD;

    return clone(child, stack + STACK, flags, arg, pidfd);
}

static int be_child(void *arg)
{
    Plan *plan = arg;

    plan->error = become(plan);
    _exit(127);
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

static void close_all(const int *fds)
{
    for (int i = 0; i < STREAMS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static void wait_for(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* Open the pipes; note the child's ends in `streams` and, to be closed later, in `theirs`. */
static int open_pipes(Plan *plan, int *theirs)
{
    int ends[2];

    for (int i = 0; i < STREAMS; i++) {
        if (plan->streams[i] != PIPE)
            continue;
        if (pipe2(ends, O_CLOEXEC) < 0)
            return -1;
        plan->streams[i] = theirs[i] = ends[i != 0];
        plan->ends[i] = raised(ends[i == 0]);
        fcntl(plan->ends[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

static pid_t start(Plan *plan)
{
    int theirs[STREAMS] = {-1, -1, -1};
    sigset_t all;
    pid_t pid = -1;

    if (open_pipes(plan, theirs) < 0) {
        plan->error = errno;
    } else {
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &plan->mask);
        pid = run(be_child, plan, &plan->pidfd);
        if (pid < 0)
            plan->error = errno;
        leave_signals(&plan->mask);
        pthread_sigmask(SIG_SETMASK, &plan->mask, NULL);
    }
    close_all(theirs);
    if (pid >= 0)
        plan->pidfd = raised(plan->pidfd);
    if (plan->error) {
        close_all(plan->ends);
        if (pid >= 0) {
            close(plan->pidfd);
            wait_for(pid);
        }
    }
    return pid;
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

/*
 * spawn(files, argv, envp, cwd, stdin, stdout, stderr): start a program in a session of its
 * own; return its process id, a pidfd, and our ends of those of the three that are PIPE, which
 * do not block; -1 for the others. What the program may be is tried in order. Raises OSError if
 * nothing runs; its filename is `cwd` if that was why.
 */
static PyObject *spawn(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *files, *words, *argv, *envp, *cwd;
    Plan plan = {.ends = {-1, -1, -1}};
    pid_t pid = -1;

    if (!PyArg_ParseTuple(args, "OOOOiii", &files, &words, &envp, &cwd, &plan.streams[0],
                          &plan.streams[1], &plan.streams[2]))
        return NULL;
    if (cwd != Py_None && !(plan.cwd = PyBytes_AsString(cwd)))
        return NULL;
    argv = encoded(words);
    if (argv && (plan.files = strings(files)) && (plan.argv = strings(argv)) &&
        (plan.envp = strings(envp))) {
        Py_BEGIN_ALLOW_THREADS
        pid = start(&plan);
        Py_END_ALLOW_THREADS
        if (plan.error) {
            errno = plan.error;
            PyErr_SetFromErrnoWithFilenameObject(
                PyExc_OSError, plan.error_is_cwd ? cwd : PyTuple_GetItem(argv, 0));
        }
    }
    free(plan.files);
    free(plan.argv);
    free(plan.envp);
    Py_XDECREF(argv);
    if (PyErr_Occurred())
        return NULL;
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
    Py_BEGIN_ALLOW_THREADS
    state = read_both(fds, sizes);
    Py_END_ALLOW_THREADS
    pieces = Py_BuildValue("(y#y#i)", buffers[0], sizes[0], buffers[1], sizes[1], state);
    return no_memory(pieces) ? Py_BuildValue("(yyi)", "", "", state | LOST) : pieces;
}

/*
 * collect(pid, pidfd, stdout, stderr): take the exit status of a child, if it has exited, and
 * what it has left in its pipes. Returns the status as waitpid gives it, None if it has not
 * exited, -1 if somebody else has reaped it; and what `drain` returns.
 */
static PyObject *collect(PyObject *Py_UNUSED(module), PyObject *args)
{
    int pid, pidfd, fds[OUTPUTS], status = 0, state = 0;
    Py_ssize_t sizes[OUTPUTS] = {0, 0};
    pid_t done;
    PyObject *remains;

    if (!PyArg_ParseTuple(args, "iiii", &pid, &pidfd, &fds[0], &fds[1]))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = waitpid(pid, &status, WNOHANG);
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
    remains = Py_BuildValue("(iy#y#i)", status, buffers[0], sizes[0], buffers[1], sizes[1], state);
    return no_memory(remains) ? Py_BuildValue("(iyyi)", status, "", "", state | LOST) : remains;
}

static int be_probe(void *arg)
{
    if (syscall(SYS_close_range, STREAMS, ~0U, CLOSE_RANGE_UNSHARE) == 0 &&
        syscall(SYS_close_range, STREAMS, ~0U, CLOSE_RANGE_CLOEXEC) == 0)
        *(volatile int *)arg = 1;
    _exit(0);
}

/*
 * Whether the system does what is needed here (Linux 5.11), and lets a child share its parent's
 * memory, which emulators do not.
 */
static int works(void)
{
    volatile int shared = 0;
    int pidfd = -1;
    pid_t pid = run(be_probe, (void *)&shared, &pidfd);

    if (pid < 0)
        return 0;
    close(pidfd);
    wait_for(pid);
    return shared;
}

static PyMethodDef methods[] = {
    {"spawn", spawn, METH_VARARGS, "Start a program in a session of its own."},
    {"drain", drain, METH_VARARGS, "Read what is in two pipes now."},
    {"collect", collect, METH_VARARGS, "Take the exit status of a child, and what it left."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_process", "Starts, reads and reaps.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__process(void)
{
    if (!works()) {
        PyErr_SetString(PyExc_ImportError, "clone or close_range does not do here what is needed");
        return NULL;
    }
    return PyModule_Create(&definition);
}
