/* A range of which page tables go back with the memory, in whatever pieces that is given back.
 *
 *     cc -o owned owned.c -I../include -lrecoup && ./owned
 */
#define _GNU_SOURCE
#include <recoup.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, BLOCK = 2 << 20, BLOCKS = 64 };

/* Uses a range and gives all of it back, page by page; how many blocks' page tables went. */
static int use(recoup_owned *owned, char *from, uint64_t *blocks) {
    for (size_t i = 0; i < BLOCKS; i++) {
        /* Before the first touch. */
        if (recoup_owned_reuse(owned, from + i * BLOCK, BLOCK)) return 1;
        memset(from + i * BLOCK, 1, BLOCK);
    }
    for (size_t at = 0; at < (size_t)BLOCKS * BLOCK; at += PAGE) {
        recoup_tables_freed freed;
        if (recoup_owned_discard(owned, from + at, PAGE, 64 << 20, &freed)) return 1;
        *blocks += freed.blocks;
    }
    return recoup_owned_reuse(owned, from, PAGE) || from[0] != 0;
}

int main(void) {
    recoup_discarder *discarder = recoup_discarder_new();
    recoup_owned *owned;
    uint64_t blocks = 0;
    int error = recoup_owned_map(discarder, (size_t)BLOCKS * BLOCK, RECOUP_HUGE_UNWANTED, &owned);
    if (error) {
        fprintf(stderr, "recoup_owned_map: %s\n", strerror(error));
        return 1;
    }
    if (use(owned, recoup_owned_start(owned), &blocks)) return 1;
    printf("the page tables of %llu blocks of 2 MiB went with their last page\n", (unsigned long long)blocks);
    /* Blocks at the ends may be in the range only in part. */
    if (blocks < BLOCKS - 1) return 1;
    recoup_owned_free(owned);

    /* The same with a mapping of one's own, which is all in use at first. */
    size_t length = (size_t)(BLOCKS + 1) * BLOCK;
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 1;
    if (recoup_owned_take(discarder, memory, length, 77, &owned) == 0) return 1;
    if (recoup_owned_take(discarder, memory, length, RECOUP_HUGE_DEFAULT, &owned)) return 1;
    /* The range may outlive it. */
    recoup_discarder_free(discarder);
    if (recoup_owned_discard(owned, memory + BLOCKS * BLOCK, BLOCK, RECOUP_SYNC, NULL)) return 1;
    blocks = 0;
    if (use(owned, memory, &blocks) || blocks < BLOCKS - 1) return 1;
    printf("and of %llu of a mapping that was taken\n", (unsigned long long)blocks);
    recoup_owned_free(owned);
    return munmap(memory, length) != 0;
}
