// The header in C++: it compiles, links, and refuses what it must.
#include <cerrno>
#include <recoup.h>

int main() {
    if (recoup_discard(nullptr, nullptr, 0, RECOUP_PRIVATE, RECOUP_SYNC) != EINVAL) return 1;
    if (recoup_headroom_read(0, nullptr) != EINVAL) return 2;
    recoup_discarder *discarder = recoup_discarder_new();
    int bad_kind = recoup_discard(discarder, nullptr, 0, 99, RECOUP_SYNC);
    recoup_discarder_free(discarder);
    recoup_discarder_free(nullptr);
    return bad_kind == EINVAL ? 0 : 3;
}
