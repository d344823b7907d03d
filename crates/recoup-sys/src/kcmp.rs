//! Whether two processes are one in some respect: kcmp(2) (Linux 3.5, `CONFIG_KCMP`).

#![expect(unsafe_code, reason = "kcmp(2) has no safe wrapper")]

/// `KCMP_VM` (linux/kcmp.h): the address space.
const KCMP_VM: libc::c_int = 1;

/// Whether both processes have the same address space. False where the kernel won't say.
pub(crate) fn same_address_space(one: i32, other: i32) -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}
