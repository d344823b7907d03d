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

// Memory that nobody needs any more.
typedef struct recoup_range {
  // Its first byte; pages that are covered only in part stay as they are.
  void *start;
  // Its bytes.
  size_t length;
  // What it consists of: RECOUP_PRIVATE, ...
  uint32_t backing;
} recoup_range;

// Told after each slice how many bytes are done; anything but 0 cancels what is not yet begun.
typedef int (*recoup_progress)(void *context, uint64_t done);

// What became of memory that was to be freed.
typedef struct recoup_freed {
  // Bytes given back to the kernel.
  uint64_t freed;
  // Bytes in slices that were refused, whole or from some page on.
  uint64_t refused;
  // Bytes that were not begun when it was cancelled; they are as they were.
  uint64_t untouched;
  // The most threads that worked at once.
  size_t workers;
  // The errno of the first refusal, or 0.
  int error;
} recoup_freed;

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
// It calls `malloc` and `free`. So where an allocator calls it from a hook (a purge, an extent's end),
// these must not be that allocator's own, unless they go to another arena that doesn't use the hook:
// else they wait for locks that the hook's caller holds, or call the hook again.
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

#if defined(__x86_64__)
// Gives this process a reaper: a helper process that shares its memory, so that however the program
// ends, its parent sees that in about a millisecond, with the same status. The reaper then frees the
// memory and ends. No handle is needed: it stays until the program has ended, also by a return from
// `main`, or until recoup_reaper_stop().
//
// `workers` says how many tasks free the memory, at most 16; 0: as many as processors, at most 4.
// `look_every_ms` says how often it looks whether the program has become another one by execve(2),
// where it isn't told; 0: every 250 ms.
//
// Takes about 0.3 ms; up to 0.2 s while another process uses the same memory, such as a child by
// vfork(2) that has not yet run its program.
//
// - The end is seen *before* the memory is free: not for programs that are restarted at once where
//   there is no room for both.
// - It keeps the privileges of this moment: start it after they were dropped.
// - It is in the same cgroup, shows as `recoup/PID`, and has none of the program's descriptors.
// - A forked child has none, and may start its own.
// - After an execve(2) the new program gets one SIGCHLD when the reaper ends, and waits for it only with
//   `__WALL` or `__WCLONE`.
// - The library is not unloaded (dlclose(3)) while it lives.
//
// Returns 0, or an errno, and the program goes on as without it: EALREADY if there is one, EBUSY if
// another process uses the same memory, EOPNOTSUPP in process 1 of a PID namespace, else that of what
// the kernel or a filter of system calls lacks. The reason is written to the `length` bytes at
// `reason`, cut to fit and ended by a zero (an empty text for 0), unless `reason` is NULL.
//
// The three functions lock each other out: not in a child forked while another thread was in one.
int recoup_reaper_start(uint32_t workers,
                        uint32_t look_every_ms,
                        char *reason,
                        size_t length);
#endif

#if defined(__x86_64__)
// 1 if the reaper lives, 0 if there is none: not started, killed, or of a parent.
int recoup_reaper_alive(void);
#endif

#if defined(__x86_64__)
// Ends the reaper and waits for that; the program goes on as without it. Does nothing if there is none.
void recoup_reaper_stop(void);
#endif

// Gives `count` ranges of memory back to the kernel by several threads, and waits for it; the memory
// stays mapped and reads as zero. `workers` says how many threads, the caller's included; 0: as many
// as still make it faster, at most one a processor.
//
// The ranges are disjoint and mapped, and nobody reads or writes them during the call; of shared
// memory, in no process. `progress` may be NULL; else it is called with `context` by whichever thread
// has freed a slice, by several at once too. It is short, and neither throws nor longjmps.
//
// Returns 0, also if cancelled, and fills `answer` in, unless that is NULL. Else the errno of the first
// slice that was refused (EINVAL: locked memory, or of another kind; ENOMEM: unmapped memory); all
// other slices were freed all the same. EINVAL, with nothing done and no answer, for an unknown kind or
// NULL instead of ranges.
int recoup_free_parallel(const struct recoup_range *ranges,
                         size_t count,
                         size_t workers,
                         recoup_progress progress,
                         void *context,
                         struct recoup_freed *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RECOUP_H */
