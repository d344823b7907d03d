/* Frees page tables that map nothing: by a sweep, step by step, and by a thread that keeps limits.
 *
 *     cc -o tables tables.c -I../include -lrecoup && ./tables
 */
#define _GNU_SOURCE
#include <recoup.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifdef __x86_64__
enum { PAGE = 4096, BLOCK = 2 << 20, BLOCKS = 2048 };
static const size_t LENGTH = (size_t)BLOCK * BLOCKS;

/* Only what one has mapped oneself: this mapping stays as it is until all is over. */
static recoup_settled settled(const char *memory) {
    return (recoup_settled){.start = memory, .length = LENGTH,
                            .promise = RECOUP_MAPPINGS_PLAIN, .huge = RECOUP_HUGE_UNWANTED};
}

/* Bytes of page tables, as the kernel says. */
static long tables(void) {
    char line[200];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmPTE: %ld kB", &kib) == 1) break;
    if (status) fclose(status);
    return kib << 10;
}

/* The kernel frees tables some milliseconds late. */
static int few_soon(long limit) {
    for (int i = 0; i < 1000 && tables() > limit; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    return tables() <= limit;
}

/* One page in each 2 MiB, which is given back: what is left is page tables. One value stays. */
static void fill(char *memory) {
    for (size_t i = 0; i < BLOCKS; i++) {
        memory[i * BLOCK + PAGE] = 1;
        madvise(memory + i * BLOCK + PAGE, PAGE, MADV_DONTNEED);
    }
    memory[5 * BLOCK] = 7;
}

static int sweep(char *memory, long before) {
    char reason[200];
    recoup_sweeper *sweeper;
    recoup_swept swept;
    recoup_settled pages = settled(memory);
    if (recoup_sweeper_new(&pages, 0, &sweeper, reason, sizeof reason)) return 1;
    fill(memory);
    long full = tables();
    if (recoup_sweep(sweeper, RECOUP_LOOKING, 0, &swept) || !few_soon(before + (1 << 20))) return 1;
    printf("a sweep behind %llu fences, none longer than %llu us: %ld of %ld bytes of page tables are left\n",
           (unsigned long long)swept.fences, (unsigned long long)swept.longest_ns / 1000, tables(), full);
    if (recoup_sweep(sweeper, 77, 0, NULL) == 0) return 1;
    recoup_sweeper_free(sweeper);
    return full < before + BLOCKS * PAGE || swept.fences == 0;
}

static int step(char *memory, long before) {
    recoup_limits limits = {.soft = 1 << 20, .hard = 64 << 20};
    recoup_regulator *regulator;
    recoup_swept swept;
    recoup_settled pages = settled(memory);
    uint64_t wait_us;
    if (recoup_regulator_new(&pages, &limits, &regulator, NULL, 0)) return 1;
    fill(memory);
    for (int i = 0; i < 1000 && tables() > before + (2 << 20); i++) {
        if (recoup_regulator_step(regulator, &swept, &wait_us)) return 1;
        nanosleep(&(struct timespec){.tv_nsec = wait_us % 1000000 * 1000}, NULL);
    }
    printf("steps: %ld bytes are left; the next one is due in %llu us\n", tables(),
           (unsigned long long)wait_us);
    recoup_regulator_free(regulator);
    return tables() > before + (2 << 20);
}

static int keep(char *memory, long before) {
    recoup_limits limits = {.soft = 1 << 20, .hard = 64 << 20};
    recoup_keeper *keeper;
    recoup_swept swept;
    recoup_settled pages = settled(memory);
    if (recoup_keeper_start(&pages, &limits, &keeper, NULL, 0)) return 1;
    fill(memory);
    if (!few_soon(before + (2 << 20)) || recoup_keeper_outcome(keeper, &swept)) return 1;
    printf("a keeper: %ld bytes are left after %llu sweeps\n", tables(), (unsigned long long)swept.sweeps);
    recoup_keeper_stop(keeper);
    return 0;
}

int main(void) {
    char *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 1;
    madvise(memory, LENGTH, MADV_NOHUGEPAGE);

    char reason[200];
    recoup_sweeper *sweeper;
    recoup_settled pages = settled(memory);
    int error = recoup_sweeper_new(&pages, 0, &sweeper, reason, sizeof reason);
    if (error) {
        printf("no sweeps here: %s (%s)\n", reason, strerror(error));
        return sweeper != NULL;
    }
    recoup_sweeper_free(sweeper);

    long before = tables();
    if (sweep(memory, before) || step(memory, before) || keep(memory, before)) return 1;
    int intact = memory[5 * BLOCK] == 7 && memory[6 * BLOCK] == 0;
    printf("what was kept is %s\n", intact ? "intact" : "damaged");
    return !intact;
}
#else
int main(void) {
    printf("no sweeps on this kind of processor\n");
    return 0;
}
#endif
