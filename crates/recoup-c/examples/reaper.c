/* Lets the end of a large program be seen before its memory is freed.
 *
 *     cc -o reaper reaper.c -I../include -lrecoup && time ./reaper
 */
#define _GNU_SOURCE
#include <errno.h>
#include <recoup.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(void) {
#ifdef __x86_64__
    char reason[200];
    int error = recoup_reaper_start(0, 0, reason, sizeof reason);
    if (error) {
        /* Containers may forbid it. The program is as good as without it. */
        printf("no reaper: %s (%s)\n", reason, strerror(error));
        return recoup_reaper_alive();
    }
    if (!recoup_reaper_alive()) return 1;

    /* There can be one only. */
    if (recoup_reaper_start(2, 100, reason, sizeof reason) != EALREADY) return 1;
    printf("a second one: %s\n", reason);

    recoup_reaper_stop();
    if (recoup_reaper_alive() || recoup_reaper_start(2, 100, NULL, 0)) return 1;

    size_t length = (size_t)128 << 20;
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memset(memory, 1, length);
    printf("%zu MiB are freed behind this program's end\n", length >> 20);
#else
    printf("no reaper on this kind of processor\n");
#endif
    return 0; /* No handle is needed: the reaper stays until the end, and ends itself. */
}
