/* Gives the most part of some huge pages back, so that the cgroup's charge falls at once.
 *
 *     cc -o discard discard.c -I../include -lrecoup && ./discard
 */
#define _GNU_SOURCE
#include <recoup.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, HUGE = 2 << 20, COUNT = 16 };

int main(void) {
    char *memory = mmap(NULL, (size_t)COUNT * HUGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    madvise(memory, (size_t)COUNT * HUGE, MADV_HUGEPAGE);
    memset(memory, 1, (size_t)COUNT * HUGE);

    recoup_discarder *discarder = recoup_discarder_new();
    for (size_t i = 0; i < COUNT; i++) {
        /* Holes may wait, up to 8 MiB in all, for the rest of their huge page. */
        int error = recoup_discard(discarder, memory + i * HUGE + PAGE, HUGE - PAGE,
                                   RECOUP_PRIVATE, 8 << 20);
        if (error) {
            fprintf(stderr, "recoup_discard: %s\n", strerror(error));
            return 1;
        }
    }
    printf("%llu bytes wait for a split\n", (unsigned long long)recoup_waiting(discarder));
    if (recoup_waiting(discarder) > (8 << 20)) return 1;
    if (recoup_split_waiting(discarder, 0) || recoup_waiting(discarder)) return 1;

    int intact = 1;
    for (size_t i = 0; i < COUNT; i++)
        intact &= memory[i * HUGE] == 1 && memory[i * HUGE + PAGE] == 0;
    printf("all split; what was kept is %s\n", intact ? "intact" : "damaged");
    munmap(memory, (size_t)COUNT * HUGE);
    recoup_forget(discarder, memory, (size_t)COUNT * HUGE);
    recoup_discarder_free(discarder);
    return !intact;
}
