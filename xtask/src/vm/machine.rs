//! The description of a virtual machine: a value that every test with a guest can build.

use std::time::Duration;

use super::accelerator::Accelerator;
use super::initramfs::GuestFile;
use super::kernel::Kernel;

/// A guest and what it does.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: Kernel,
    pub(crate) memory_mib: u64,
    pub(crate) cpus: u32,
    /// Nodes that share the memory and the CPUs between them.
    pub(crate) numa_nodes: u32,
    /// More arguments of QEMU, such as `-device` and its value.
    pub(crate) devices: Vec<String>,
    /// Files beside busybox and the first process.
    pub(crate) files: Vec<GuestFile>,
    /// More words of the kernel's command line.
    pub(crate) command_line: Vec<String>,
    /// What busybox's shell runs there, as root, with everything mounted.
    pub(crate) script: String,
    /// After this time the guest is ended.
    pub(crate) time_limit: Duration,
}

impl Machine {
    /// A machine like most, to be changed where a test needs another one.
    pub(crate) fn with(kernel: Kernel) -> Self {
        Self {
            kernel,
            memory_mib: 1536,
            cpus: 2,
            numa_nodes: 1,
            devices: Vec::new(),
            files: Vec::new(),
            command_line: Vec::new(),
            script: String::new(),
            time_limit: Duration::from_secs(60),
        }
    }

    /// QEMU's arguments for it, but for the initramfs and where its serial ports lead to.
    pub(crate) fn arguments(&self, accelerator: Accelerator) -> Vec<String> {
        let kernel = self.kernel.image.display().to_string();
        // A panic restarts the machine, and a restart ends QEMU.
        let mut command_line = "console=ttyS0 panic=-1".to_owned();
        for word in &self.command_line {
            command_line.push(' ');
            command_line.push_str(word);
        }
        let (memory, cpus) = (format!("{}M", self.memory_mib), self.cpus.to_string());
        let mut arguments: Vec<String> = accelerator
            .arguments()
            .into_iter()
            .chain(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .chain(["-m", &memory, "-smp", &cpus, "-kernel", &kernel])
            .chain(["-append", &command_line])
            .map(ToOwned::to_owned)
            .collect();
        if self.numa_nodes > 1 {
            arguments.extend(self.numa());
        }
        arguments.extend(self.devices.iter().cloned());
        arguments
    }

    /// Nodes with equal parts of the memory; the first nodes have one CPU each, the last the rest.
    fn numa(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let nodes = u64::from(self.numa_nodes);
        for node in 0..self.numa_nodes {
            let memory =
                (self.memory_mib / nodes) + if node == 0 { self.memory_mib % nodes } else { 0 };
            arguments.push("-object".to_owned());
            arguments.push(format!("memory-backend-ram,id=memory{node},size={memory}M"));
            arguments.push("-numa".to_owned());
            let last = if node + 1 == self.numa_nodes { self.cpus } else { node + 1 };
            let cpus =
                if node < last { format!(",cpus={node}-{}", last - 1) } else { String::new() };
            arguments.push(format!("node,nodeid={node},memdev=memory{node}{cpus}"));
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let file = tempfile::NamedTempFile::new().unwrap();
        Machine::with(Kernel::from_file(file.path()).unwrap())
    }

    #[test]
    fn nodes_share_all_memory_and_all_cpus() {
        let machine = Machine { numa_nodes: 2, memory_mib: 1025, cpus: 4, ..machine() };
        let arguments = machine.arguments(Accelerator::Tcg).join(" ");
        assert!(
            arguments.contains("id=memory0,size=513M -numa node,nodeid=0,memdev=memory0,cpus=0-0")
        );
        assert!(
            arguments.contains("id=memory1,size=512M -numa node,nodeid=1,memdev=memory1,cpus=1-3")
        );
    }

    #[test]
    fn devices_and_words_of_the_command_line_reach_qemu() {
        let machine = Machine {
            devices: vec!["-device".to_owned(), "virtio-balloon".to_owned()],
            command_line: vec!["quiet".to_owned()],
            ..machine()
        };
        let arguments = machine.arguments(Accelerator::Tcg).join(" ");
        assert!(arguments.contains("-append console=ttyS0 panic=-1 quiet"));
        assert!(arguments.ends_with("-device virtio-balloon"));
    }
}
