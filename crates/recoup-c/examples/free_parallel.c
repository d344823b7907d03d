/* Frees a large mapping by several threads, and says how far it is.
 *
 *     cc -o free_parallel free_parallel.c -I../include -lrecoup && ./free_parallel
 */
#define _GNU_SOURCE
#include <recoup.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static int show(void *context, uint64_t done) {
    (void)context;
    printf("%llu MiB are free\n", (unsigned long long)(done >> 20));
    return 0; /* Anything else would cancel the rest. */
}

static int cancel(void *context, uint64_t done) {
    (void)context;
    return done > 0;
}

int main(void) {
    size_t length = (size_t)192 << 20;
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memset(memory, 1, length);

    recoup_range range = {.start = memory, .length = length, .backing = RECOUP_PRIVATE};
    recoup_range left; /* Room for as many as there are ranges. */
    recoup_freed freed;
    int error = recoup_free_parallel(&range, 1, 1, cancel, NULL, &left, &freed);
    if (error || freed.untouched_ranges != 1 || freed.freed + freed.untouched != length) return 1;
    printf("cancelled: %zu MiB from %p on are as they were\n", left.length >> 20, left.start);
    char *kept = left.start;
    if (kept[0] != 1 || kept[-1] != 0 || kept + left.length != memory + length) return 1;

    /* The rest; what is free already costs nothing. */
    error = recoup_free_parallel(&range, 1, 0, show, NULL, NULL, &freed);
    if (error) {
        fprintf(stderr, "recoup_free_parallel: %s\n", strerror(error));
        return 1;
    }
    printf("freed by at most %zu threads at once\n", freed.workers);
    int empty = memory[0] == 0 && memory[length - 1] == 0;
    munmap(memory, length);

    /* What is not mapped is refused, and said so. */
    error = recoup_free_parallel(&range, 1, 2, NULL, NULL, NULL, &freed);
    printf("unmapped memory: %s\n", strerror(error));
    return !(empty && error && error == freed.error && freed.refused == length);
}
