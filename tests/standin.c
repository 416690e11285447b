/* A stand-in for a trading service, whose time of death can be read from outside.
 *
 * Every process of it stamps CLOCK_MONOTONIC (ns) into a slot of a shared file, in the rhythm that
 * the file asks for, for as long as it lives: the last stamp is its last sign of life.
 *
 *   standin normal FILE          until a signal ends it
 *   standin ignore-term FILE     SIGTERM, SIGINT and SIGHUP do nothing
 *   standin slow-term FILE S     takes S seconds to shut down after SIGTERM
 *   standin fork FILE            and three double-forked children, each with a session of its own,
 *                                that ignore every signal which can be ignored
 *   standin spawn FILE           and a new such child every 2 ms, which lives for 20 ms
 *   standin sleep FILE S         S seconds, whatever the signal (for ExecStop= and its like)
 *   standin fail FILE            stamps once and exits 1
 *   standin exec FILE COMMAND... writes the time and becomes COMMAND: a trigger's exact beginning
 *   standin touch FILE PATH      writes the time and does as touch(1): the same for the flag
 *
 * FILE is made by the test: SLOTS records of four 64-bit words. Record 0 counts the processes that
 * ever were, and its last word says how many ns lie between two stamps; record 1 + n % (SLOTS - 1)
 * belongs to the nth: pid, first stamp, last stamp. exec and touch write their time into record 0,
 * words 1 (the first time) and 2.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 4096, SPAWN_NS = 2000000 };

struct slot {
    _Atomic int64_t pid, first, last, beat;
};

static struct slot *slots;
static volatile sig_atomic_t told_to_stop;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "standin: %s: %s\n", what, strerror(errno));
    exit(111);
}

static void map_slots(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        die(path);
    slots = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (slots == MAP_FAILED)
        die("mmap");
    close(fd);
}

static struct slot *take_slot(void)
{
    int64_t nth = __atomic_fetch_add((int64_t *)&slots[0].pid, 1, __ATOMIC_SEQ_CST);
    struct slot *mine = &slots[1 + nth % (SLOTS - 1)];
    mine->pid = getpid();
    mine->last = mine->first = now();
    return mine;
}

static void tick(struct slot *mine)
{
    struct timespec pause = {.tv_nsec = slots[0].beat};
    mine->last = now();
    nanosleep(&pause, NULL);
}

static void ignore(int from, int to)
{
    for (int number = from; number <= to; number++)
        signal(number, SIG_IGN); /* fails for SIGKILL and SIGSTOP, as it should */
}

/* A grandchild in a session of its own, that nobody waits for; it lives `lifetime` ns (0: for ever). */
static void orphan(int64_t lifetime)
{
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child > 0) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        return;
    }
    setsid();
    if (fork() != 0)
        _exit(0);
    setsid();
    ignore(1, 64);
    struct slot *mine = take_slot();
    int64_t end = now() + lifetime;
    while (!lifetime || now() < end)
        tick(mine);
    _exit(0);
}

static void on_term(int number)
{
    (void)number;
    told_to_stop = 1;
}

static int trigger(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    int64_t begin = slots[0].last = now();
    if (!slots[0].first)
        slots[0].first = begin;
    if (!strcmp(argv[1], "exec")) {
        execvp(argv[3], argv + 3);
        die(argv[3]);
    }
    int fd = open(argv[3], O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0 || futimens(fd, NULL))
        die(argv[3]);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    const char *mode = argv[1];
    double seconds = argc > 3 ? atof(argv[3]) : 0;
    map_slots(argv[2]);
    if (!strcmp(mode, "exec") || !strcmp(mode, "touch"))
        return trigger(argc, argv);

    errno = EINVAL;
    if (!slots[0].beat)
        die("no beat in the file");
    prctl(PR_SET_TIMERSLACK, 1UL);
    struct slot *mine = take_slot();
    if (!strcmp(mode, "fail"))
        return 1;
    if (!strcmp(mode, "ignore-term") || !strcmp(mode, "sleep"))
        ignore(SIGHUP, SIGTERM);
    if (!strcmp(mode, "slow-term"))
        signal(SIGTERM, on_term);
    if (!strcmp(mode, "fork"))
        for (int i = 0; i < 3; i++)
            orphan(0);

    int64_t end = !strcmp(mode, "sleep") ? now() + (int64_t)(seconds * 1e9) : INT64_MAX;
    for (int64_t ticks = 0; now() < end; ticks++) {
        tick(mine);
        if (told_to_stop && end == INT64_MAX)
            end = now() + (int64_t)(seconds * 1e9);
        if (!strcmp(mode, "spawn") && ticks * slots[0].beat % SPAWN_NS == 0)
            orphan(20000000);
    }
    return 0;
}
