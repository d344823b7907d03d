//! What runs the guest's instructions: the processor by KVM, or QEMU's translator TCG.

use std::path::Path;
use std::time::Duration;

use super::boot;
use super::kernel::Kernel;
use super::machine::Machine;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// KVM if it boots this kernel here, which a `/dev/kvm` that opens does not promise (nested
    /// virtualisation can lack what an ordinary guest needs).
    pub(crate) fn probe(kernel: &Kernel, directory: &Path) -> Self {
        let openable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let machine = Machine {
            memory_mib: 512,
            time_limit: Duration::from_secs(10),
            ..Machine::with(kernel.clone())
        };
        let boots = || boot::boot(&machine, Self::Kvm, directory, &mut |_| ());
        if openable && boots().is_ok_and(|boot| boot.status == Some(0)) {
            Self::Kvm
        } else {
            Self::Tcg
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        }
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // The translator of QEMU 7.2 loses the flags of a CMPXCHG16B that an interrupt follows:
            // one in ten boots of Linux 6.12 fell into a double fault behind it in the slab
            // allocator. Five levels of page tables would only make it slower.
            Self::Tcg => ["-accel", "tcg", "-cpu", "max,la57=off,cx16=off"],
        }
    }
}
