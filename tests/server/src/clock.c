/* Loaded into a server before all other libraries, this library changes the server's wall clock. The clock shows real
 * time plus an offset in microseconds from a file. The file is mapped, so a change of it moves the clock of every
 * process at once. If the file has a second number that is not 0, the clock stands still at that time, in microseconds since
 * 1970. The monotonic clock, which measures durations, stays real.
 *
 * libfaketime cannot be used instead: it stops faking while the process is in select() or poll(). PostgreSQL 15's
 * postmaster starts its children in a signal handler during these calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int (*real)(clockid_t, struct timespec *);

/* Runs before the first thread starts. Children inherit the mapping at the fork. */
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("COWRIE_ENRICH_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (mapped == MAP_FAILED || real == NULL)
        abort();
    close(file);
    offset = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (real == NULL)
        begin();
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        /* Bytes of a page beyond the end of the file are 0. */
        if (offset[1] != 0) {
            now->tv_sec = offset[1] / 1000000;
            now->tv_nsec = offset[1] % 1000000 * 1000;
            return result;
        }
        /* The offset is negative in the afternoon, when a test wants it to be noon. */
        int64_t nanoseconds = now->tv_nsec + *offset % 1000000 * 1000;
        int64_t borrowed = nanoseconds < 0 ? 1 : 0;
        now->tv_sec += *offset / 1000000 + nanoseconds / 1000000000 - borrowed;
        now->tv_nsec = nanoseconds % 1000000000 + borrowed * 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now != NULL)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
