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

// Huge pages as the host's settings say.
#define RECOUP_HUGE_DEFAULT 0

// Huge pages wanted (MADV_HUGEPAGE).
#define RECOUP_HUGE_WANTED 1

// No huge pages (MADV_NOHUGEPAGE).
#define RECOUP_HUGE_UNWANTED 2

#if defined(__x86_64__)
// A sweep looks first, and fences only where empty page tables are.
#define RECOUP_LOOKING 0
#endif

#if defined(__x86_64__)
// A sweep fences whole mappings, so that no page table is added there meanwhile.
#define RECOUP_FENCING 1
#endif

#if defined(__x86_64__)
// The mappings stay: as long as they are swept, none is unmapped, moved away or mapped over *and its place
// taken by other memory*: not by munmap, mremap and mmap(MAP_FIXED), nor by an allocator that calls these,
// as most do. So it is for ranges that one has mapped oneself.
#define RECOUP_MAPPINGS_STAY 0
#endif

#if defined(__x86_64__)
// They stay, and are plain: private anonymous memory, readable and writable, mapped with MAP_NORESERVE, with
// no other attributes than `huge` says, no memory policy either, and nobody calls mprotect, mlock, mlockall or
// advice that lasts for them. Then page tables can be freed by mapping anew, which Linux before 6.14 needs.
#define RECOUP_MAPPINGS_PLAIN 1
#endif

// Gives memory back, and knows which huge pages still wait for a split. One serves all threads.
//
// It asks `malloc` for some hundred bytes now and then, also within recoup_discard().
typedef struct recoup_discarder recoup_discarder;

#if defined(__x86_64__)
// A thread that keeps limits on page tables.
typedef struct recoup_keeper recoup_keeper;
#endif

// Private anonymous memory whose owner gives pages back and takes them again. One serves all threads.
typedef struct recoup_owned recoup_owned;

#if defined(__x86_64__)
// Keeps limits on page tables, step by step, for one who has a thread for it. For one thread at a time.
typedef struct recoup_regulator recoup_regulator;
#endif

#if defined(__x86_64__)
// Frees page tables that map nothing, at the caller's wish. For one thread at a time.
typedef struct recoup_sweeper recoup_sweeper;
#endif

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

// Page tables that went with what was given back.
typedef struct recoup_tables_freed {
  // Page tables of 2 MiB.
  uint64_t blocks;
  // Those of a whole gigabyte, with the tables below them.
  uint64_t gigabytes;
} recoup_tables_freed;

#if defined(__x86_64__)
// Addresses that may be swept, and what is promised of them.
typedef struct recoup_settled {
  // The first byte; NULL with SIZE_MAX as `length`: all of the process.
  const void *start;
  // How many bytes.
  size_t length;
  // RECOUP_MAPPINGS_STAY or RECOUP_MAPPINGS_PLAIN.
  uint32_t promise;
  // Of plain mappings: RECOUP_HUGE_DEFAULT, RECOUP_HUGE_WANTED or RECOUP_HUGE_UNWANTED.
  uint32_t huge;
} recoup_settled;
#endif

#if defined(__x86_64__)
// What one or more sweeps did.
typedef struct recoup_swept {
  // Bytes of page tables (VmPTE) before the first.
  uint64_t before;
  // Bytes of page tables after the last. The kernel frees some of them milliseconds late.
  uint64_t after;
  // Bytes of page tables that were seen to be freed, rather too few than too many.
  uint64_t freed;
  // How often page tables were looked for.
  uint64_t sweeps;
  // How many fences were raised.
  uint64_t fences;
  // How many of them were up for longer than allowed.
  uint64_t over_budget;
  // Nanoseconds that the longest was up.
  uint64_t longest_ns;
  // Ranges that the kernel refused to fence or to free from.
  uint64_t left_alone;
} recoup_swept;
#endif

#if defined(__x86_64__)
// Limits on this process's page tables.
typedef struct recoup_limits {
  // Over so many bytes of page tables, empty ones are freed in the background.
  uint64_t soft;
  // Before so many bytes are reached, those who add page tables are held up while others are freed.
  // Page tables that are needed can exceed it. Hard only where the thread that keeps it gets real-time
  // priority (CAP_SYS_NICE, or RLIMIT_RTPRIO), and where discards free page tables (Linux 6.14): without,
  // it waits for a processor like any other, or for the mmap lock, and page tables overshoot meanwhile.
  uint64_t hard;
  // How many microseconds a thread may wait at a fence, about; 0: 10000.
  uint64_t max_pause_us;
} recoup_limits;
#endif

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
  // How many ranges these are: at most as many as were to be freed.
  size_t untouched_ranges;
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

// Maps a range of `length` bytes, none of which is in use yet: recoup_owned_reuse() comes before the first
// touch. Its splits are counted together with all others of `discarder`, which may be ended before it.
// `huge` is RECOUP_HUGE_DEFAULT, RECOUP_HUGE_WANTED or RECOUP_HUGE_UNWANTED.
//
// Returns 0 and writes the range to `answer`. Else EINVAL for NULL or an unknown kind, or that of mmap(2), and
// then NULL is written.
int recoup_owned_map(const struct recoup_discarder *discarder,
                     size_t length,
                     uint32_t huge,
                     struct recoup_owned **answer);

// Takes charge of `length` bytes from `start`, all of them in use. Until recoup_owned_free() they are
// private anonymous memory, readable and writable, mapped by the caller (MAP_NORESERVE, or the mapping
// falls to pieces) with no other attributes than `huge`, no memory policy either.
//
// Returns as recoup_owned_map().
int recoup_owned_take(const struct recoup_discarder *discarder,
                      void *start,
                      size_t length,
                      uint32_t huge,
                      struct recoup_owned **answer);

// The first byte of a range; NULL for NULL.
void *recoup_owned_start(const struct recoup_owned *owned);

// The owner is about to use `length` bytes from `start`: this returns before one of them is touched.
// Returns 0, or EINVAL for NULL.
int recoup_owned_reuse(const struct recoup_owned *owned,
                       const void *start,
                       size_t length);

// Gives the whole pages among `length` bytes from `start` back, and with them the page tables of all 2 MiB,
// and of all gigabytes, of which nothing is in use any more. Nobody touches them from the beginning of this
// call on until a recoup_owned_reuse() that began after it has returned. `bound` is as for recoup_discard().
//
// Returns 0 and fills `answer` in, unless that is NULL. Else EINVAL for NULL or locked memory, or that of
// mmap(2), where page tables stay: everything else was done.
int recoup_owned_discard(const struct recoup_owned *owned,
                         void *start,
                         size_t length,
                         uint64_t bound,
                         struct recoup_tables_freed *answer);

// Ends a range, which nobody uses any more: one of recoup_owned_map() is unmapped, one of
// recoup_owned_take() stays as it is. Does nothing for NULL.
void recoup_owned_free(struct recoup_owned *owned);

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
// - It frees private anonymous memory that can be written. All else (shared memory, hugetlb pages, files, page
//   tables) the kernel frees on one processor when the reaper ends.
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

#if defined(__x86_64__)
// Makes a sweeper for `pages`, of which what it says there is promised until it is freed.
//
// `max_pause_us` says how many microseconds a thread may wait for a sweep, about; 0: 10000.
//
// Returns 0 and writes the sweeper to `answer`. Else EINVAL for NULL as `answer` or `pages`, or for a promise
// that is none (all of a process is never plain); EOPNOTSUPP where the kernel or its privileges lack
// something (Linux 6.14 with CONFIG_PT_RECLAIM, or 6.7 where mappings are plain, and a userfaultfd for
// kernel faults), or an errno of the files in /proc: NULL is written to `answer` then. The reason is written to the
// `reason_length` bytes at `reason`, cut to fit and ended by a zero (an empty text for 0), unless that is
// NULL.
int recoup_sweeper_new(const struct recoup_settled *pages,
                       uint64_t max_pause_us,
                       struct recoup_sweeper **answer,
                       char *reason,
                       size_t reason_length);
#endif

#if defined(__x86_64__)
// Frees page tables that map nothing, or nothing but the zero page, until no more than `goal` bytes are left
// or all of the range was seen once. `mode` is RECOUP_LOOKING or, where there are too many,
// RECOUP_FENCING.
//
// Whoever touches a page meanwhile that is not there may wait, system calls included. Returns 0 and fills
// `answer` in, unless that is NULL; or an errno: EINVAL for NULL or an unknown mode, else that of a file in
// /proc/self.
int recoup_sweep(struct recoup_sweeper *sweeper,
                 uint32_t mode,
                 uint64_t goal,
                 struct recoup_swept *answer);
#endif

#if defined(__x86_64__)
// Ends a sweeper. Does nothing for NULL.
void recoup_sweeper_free(struct recoup_sweeper *sweeper);
#endif

#if defined(__x86_64__)
// Makes what keeps `limits` on page tables, step by step, for a program that has a thread for it.
// Everything else is as for recoup_sweeper_new(); EINVAL also for NULL as `limits`.
int recoup_regulator_new(const struct recoup_settled *pages,
                         const struct recoup_limits *limits,
                         struct recoup_regulator **answer,
                         char *reason,
                         size_t reason_length);
#endif

#if defined(__x86_64__)
// Sees how many page tables there are, and frees some if they are too many. Writes what was done to
// `answer` and, to `wait_us`, after how many microseconds the next step is due, unless these are NULL.
// It allocates nothing. Returns 0, or an errno: EINVAL for NULL, else that of a file in /proc/self.
int recoup_regulator_step(struct recoup_regulator *regulator,
                          struct recoup_swept *answer,
                          uint64_t *wait_us);
#endif

#if defined(__x86_64__)
// Ends what keeps limits. Does nothing for NULL.
void recoup_regulator_free(struct recoup_regulator *regulator);
#endif

#if defined(__x86_64__)
// Starts a thread that keeps `limits` on page tables until recoup_keeper_stop(), and another one that helps
// it, if it can. Everything else is as for recoup_sweeper_new(); EINVAL also for NULL as `limits`, EOPNOTSUPP
// also where no thread can be made. They ask for the lowest real-time priority (SCHED_RR 1), if they may. A forked child has no such thread.
int recoup_keeper_start(const struct recoup_settled *pages,
                        const struct recoup_limits *limits,
                        struct recoup_keeper **answer,
                        char *reason,
                        size_t reason_length);
#endif

#if defined(__x86_64__)
// What a keeper has done so far, all steps together. Returns 0, or EINVAL for NULL.
int recoup_keeper_outcome(const struct recoup_keeper *keeper, struct recoup_swept *answer);
#endif

#if defined(__x86_64__)
// Ends a keeper and waits for its thread. Does nothing for NULL.
void recoup_keeper_stop(struct recoup_keeper *keeper);
#endif

// Gives `count` ranges of memory back to the kernel by several threads, and waits for it; the memory
// stays mapped and reads as zero. `workers` says how many threads, the caller's included; 0: as many
// as still make it faster, at most one a processor.
//
// The ranges are disjoint and mapped, and nobody reads or writes them during the call; of shared
// memory, in no process. `progress` may be NULL; else it is called with `context` by whichever thread
// has freed a slice, by several at once too. It is short, and neither throws nor longjmps.
//
// `untouched` may be NULL; else it has room for `count` ranges, and is given those that were not begun when it
// was cancelled, in the order of `ranges`; `answer` says how many.
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
                         struct recoup_range *untouched,
                         struct recoup_freed *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RECOUP_H */
