// The header in C++: it compiles, links, and refuses what it must.
#include <cerrno>
#include <initializer_list>
#include <recoup.h>

int main() {
    if (recoup_discard(nullptr, nullptr, 0, RECOUP_PRIVATE, RECOUP_SYNC) != EINVAL) return 1;
    if (recoup_headroom_read(0, nullptr) != EINVAL) return 2;
    recoup_owned *owned;
    if (recoup_owned_map(nullptr, 1 << 21, RECOUP_HUGE_DEFAULT, &owned) != EINVAL) return 4;
    if (recoup_owned_discard(nullptr, nullptr, 0, RECOUP_SYNC, nullptr) != EINVAL) return 5;
    if (recoup_owned_reuse(nullptr, nullptr, 0) != EINVAL || recoup_owned_start(nullptr)) return 6;
    recoup_owned_free(nullptr);
#ifdef __x86_64__
    char reason[9] = "untold";
    if (recoup_sweeper_new(nullptr, 0, nullptr, reason, sizeof reason) != EINVAL) return 7;
    recoup_keeper *keeper;
    recoup_regulator *regulator;
    if (recoup_keeper_start(nullptr, nullptr, &keeper, nullptr, 0) != EINVAL) return 8;
    if (recoup_regulator_new(nullptr, nullptr, &regulator, nullptr, 0) != EINVAL) return 9;
    recoup_sweeper *sweeper;
    for (recoup_settled no_promise : {recoup_settled{&owned, 4096, 77, 0},
                                      recoup_settled{&owned, 4096, RECOUP_MAPPINGS_PLAIN, 77},
                                      recoup_settled{nullptr, SIZE_MAX, RECOUP_MAPPINGS_PLAIN, 0}})
        if (recoup_sweeper_new(&no_promise, 0, &sweeper, nullptr, 0) != EINVAL) return 13;
    if (recoup_sweep(nullptr, RECOUP_LOOKING, 0, nullptr) != EINVAL) return 10;
    if (recoup_regulator_step(nullptr, nullptr, nullptr) != EINVAL) return 11;
    if (recoup_keeper_outcome(nullptr, nullptr) != EINVAL) return 12;
    recoup_sweeper_free(nullptr);
    recoup_regulator_free(nullptr);
    recoup_keeper_stop(nullptr);
#endif
    recoup_discarder *discarder = recoup_discarder_new();
    int bad_kind = recoup_discard(discarder, nullptr, 0, 99, RECOUP_SYNC);
    recoup_discarder_free(discarder);
    recoup_discarder_free(nullptr);
    return bad_kind == EINVAL ? 0 : 3;
}
