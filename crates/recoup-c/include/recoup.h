/* recoup: memory that was freed goes back. Link with -lrecoup.
 *
 * Made from crates/recoup-c by cbindgen; not edited by hand.
 * Licensed under MIT or Apache-2.0, at your choice.
 */

#ifndef RECOUP_H
#define RECOUP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Split at once: nothing that was given back stays charged.
#define RECOUP_SYNC 0

// Leave it to the kernel, which splits when memory gets short.
#define RECOUP_DEFERRED UINT64_MAX

// Private anonymous memory.
#define RECOUP_PRIVATE 0

// Shared memory: memfd, tmpfs, System V, shared anonymous.
#define RECOUP_SHARED 1

// Private hugetlb memory of 2 MiB pages; whole pages only.
#define RECOUP_HUGETLB_2M 2

// Private hugetlb memory of 1 GiB pages; whole pages only.
#define RECOUP_HUGETLB_1G 3

// Shared hugetlb memory of 2 MiB pages; whole pages only.
#define RECOUP_HUGETLB_2M_SHARED 4

// Shared hugetlb memory of 1 GiB pages; whole pages only.
#define RECOUP_HUGETLB_1G_SHARED 5

// Gives memory back, and knows which huge pages still wait for a split. One serves all threads.
//
// It asks `malloc` for some hundred bytes now and then, also within recoup_discard().
typedef struct recoup_discarder recoup_discarder;

// What this process can still take, in bytes.
typedef struct recoup_headroom {
  // Memory that can still be charged before a limit is met or the host is short of memory.
  uint64_t bytes;
  // What of that was given as `returnable`.
  uint64_t returnable;
  // The limit that is met first: a cgroup's; 0 if it is the memory of the host.
  uint64_t limit;
  // What is charged to that cgroup now; 0 for the host.
  uint64_t charge;
} recoup_headroom;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Makes one. Never NULL. End it with recoup_discarder_free().
struct recoup_discarder *recoup_discarder_new(void);

// Ends one, which no other thread uses any more. Does nothing for NULL.
void recoup_discarder_free(struct recoup_discarder *discarder);

// Gives the whole pages among `length` bytes from `start` back to the kernel; they read as zero from
// then on. Huge pages of which a part stays are split:
// - `bound` = RECOUP_SYNC: at once,
// - `bound` = RECOUP_DEFERRED: when the kernel likes to,
// - else: once more than `bound` bytes wait for that.
//
// The pages are mapped, of the kind that `backing` says (RECOUP_PRIVATE, ...), and nobody reads or
// writes them during the call; of shared memory, in no process.
//
// Returns 0, or EINVAL for locked memory or another kind of memory, ENOMEM for unmapped memory: what
// was given back before stays given back.
int recoup_discard(const struct recoup_discarder *discarder,
                   void *start,
                   size_t length,
                   uint32_t backing,
                   uint64_t bound);

// The most bytes that were given back and are still charged for want of a split. 0 for NULL.
uint64_t recoup_waiting(const struct recoup_discarder *discarder);

// Splits until no more than `bound` bytes wait: for a loop that has time. Returns 0, or EINVAL for
// NULL or locked memory.
int recoup_split_waiting(const struct recoup_discarder *discarder, uint64_t bound);

// Forgets what is known about `length` bytes from `start`: they are no longer mapped. Does nothing
// for NULL.
void recoup_forget(const struct recoup_discarder *discarder, const void *start, size_t length);

// How much more this process can take: the least over its cgroup, all cgroups above it, and the
// host. `returnable` is what the caller can give back at once, such as recoup_waiting(). Takes about
// 50 us a level of cgroups.
//
// Returns 0 and fills `answer` in; or an errno: EINVAL for NULL, else that of a file in /proc or of
// the cgroup that could not be read.
int recoup_headroom_read(uint64_t returnable,
                         struct recoup_headroom *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RECOUP_H */
