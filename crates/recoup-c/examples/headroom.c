/* How much more this process can take, as its cgroups and the host see it.
 *
 *     cc -o headroom headroom.c -I../include -lrecoup && ./headroom
 */
#include <recoup.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    recoup_headroom headroom;
    int error = recoup_headroom_read(0, &headroom);
    if (error) {
        fprintf(stderr, "recoup_headroom_read: %s\n", strerror(error));
        return 1;
    }
    printf("room for %llu MiB, limited by ", (unsigned long long)headroom.bytes >> 20);
    if (headroom.limit)
        printf("a cgroup: %llu of %llu MiB are charged\n",
               (unsigned long long)headroom.charge >> 20, (unsigned long long)headroom.limit >> 20);
    else
        printf("the host\n");
    return headroom.bytes == 0;
}
