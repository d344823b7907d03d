//! Which guests there are: kernels, and machines for what only shows on a machine of that kind.

use super::kernel;

/// A kind of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) memory_mib: u64,
    pub(crate) numa_nodes: u32,
    pub(crate) command_line: &'static [&'static str],
    /// Only tests whose names contain this make sense there.
    only: Option<&'static str>,
    /// Only with the newest of the named kernels.
    newest_only: bool,
}

impl Guest {
    /// The words of the kernel's command line, one of which tells tests where they are.
    pub(crate) fn words(&self) -> Vec<String> {
        let own = self.command_line.iter().map(ToString::to_string);
        own.chain([format!("recoup.guest={}", self.name)]).collect()
    }
}

/// All kinds of guests.
const GUESTS: [Guest; 5] = [
    Guest {
        name: "default",
        memory_mib: 1536,
        numa_nodes: 1,
        command_line: &[],
        only: None,
        newest_only: false,
    },
    // What knows of nodes; all else is the same there, and an emulated guest takes ten minutes for all.
    Guest {
        name: "numa",
        memory_mib: 1536,
        numa_nodes: 2,
        command_line: &[],
        only: Some("node"),
        newest_only: true,
    },
    // Huge pages of 1 GiB need memory that nobody has cut up: that of a machine that was just started.
    Guest {
        name: "gigabytes",
        memory_mib: 21504,
        numa_nodes: 1,
        command_line: &[],
        only: Some("huge_gigabyte"),
        newest_only: true,
    },
    // Two gigabytes that the firmware calls reserved, so that the kernel has no struct pages for them: the
    // memory above 4 GiB, as QEMU's machine has 3 GiB below.
    Guest {
        name: "reserved",
        memory_mib: 5120,
        numa_nodes: 1,
        command_line: &["memmap=2G$4G"],
        only: Some("reserved_memory"),
        newest_only: true,
    },
    // Memory hotplug is part of all of Debian's kernels: this is as off as it gets there.
    Guest {
        name: "small-memory",
        memory_mib: 256,
        numa_nodes: 1,
        command_line: &["acpi_no_memhotplug"],
        only: Some("small_memory"),
        newest_only: true,
    },
];

/// One cell of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) kernel: String,
    pub(crate) guest: Guest,
    pub(crate) filter: Option<String>,
}

/// The cells for the kernels and guests that were asked for by name, or for all.
pub(crate) fn cells(kernels: &[String], guests: &[String], filter: Option<&str>) -> Vec<Cell> {
    let all: Vec<String> = kernel::NAMES.map(ToOwned::to_owned).to_vec();
    let wanted = if kernels.is_empty() { &all } else { kernels };
    let mut cells = Vec::new();
    for kernel in wanted {
        for guest in GUESTS {
            let by_name = guests.iter().any(|name| name == guest.name);
            let by_default = guests.is_empty()
                && (!guest.newest_only || kernel == kernel::NEWEST)
                && suits(&guest, filter);
            if by_name || by_default {
                let filter = filter.or(guest.only).map(ToOwned::to_owned);
                let kernel = kernel.clone();
                cells.push(Cell { kernel, guest, filter });
            }
        }
    }
    cells
}

/// Whether tests that a filter leaves can be meant for a guest.
fn suits(guest: &Guest, filter: Option<&str>) -> bool {
    match (guest.only, filter) {
        (Some(only), Some(filter)) => filter.contains(only),
        _ => true,
    }
}

/// The names of all guests.
pub(crate) fn guest_names() -> [&'static str; GUESTS.len()] {
    GUESTS.map(|guest| guest.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cells: &[Cell]) -> Vec<String> {
        cells
            .iter()
            .map(|cell| {
                let filter = cell.filter.as_deref().unwrap_or("all");
                format!("{} {} {filter}", cell.kernel, cell.guest.name)
            })
            .collect()
    }

    #[test]
    fn the_whole_matrix_has_special_guests_on_the_newest_kernel_only() {
        assert_eq!(
            shown(&cells(&[], &[], None)),
            [
                "6.1 default all",
                "6.12 default all",
                "newest default all",
                "newest numa node",
                "newest gigabytes huge_gigabyte",
                "newest reserved reserved_memory",
                "newest small-memory small_memory"
            ]
        );
    }

    #[test]
    fn a_filter_leaves_out_guests_that_are_for_other_tests() {
        let newest = [kernel::NEWEST.to_owned()];
        let filtered = cells(&newest, &[], Some("holes"));
        assert_eq!(shown(&filtered), ["newest default holes"]);
        assert_eq!(cells(&newest, &[], Some("small_memory_scan")).len(), 2);
    }

    #[test]
    fn guests_asked_for_by_name_run_on_any_kernel() {
        let asked = cells(&["6.1".to_owned()], &["small-memory".to_owned()], Some("x"));
        assert_eq!(shown(&asked), ["6.1 small-memory x"]);
    }
}
