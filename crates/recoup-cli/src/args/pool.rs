//! The command line of `recoup pool`.

use clap::{Args, Subcommand};
use recoup_sys::Bytes;

#[derive(Args, Debug)]
pub(crate) struct PoolArgs {
    #[command(subcommand)]
    pub(crate) command: PoolCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Show what is in the pools and what their struct pages cost; changes nothing
    Status(StatusArgs),
    /// Take free memory for more huge pages
    Reserve(ReserveArgs),
    /// Give free huge pages back as ordinary memory
    Release(ReleaseArgs),
    /// Split free huge pages into smaller ones
    Demote(DemoteArgs),
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("amount").required(true).args(["pages", "bytes"])))]
pub(crate) struct ReserveArgs {
    /// The size of one page: 2M, 1G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) size: Bytes,
    /// How many more pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pages: Option<u64>,
    /// How much more memory, rounded up to whole pages
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) bytes: Option<Bytes>,
    /// Switch the vmemmap optimisation on first, so that the pages' struct pages are freed; it stays
    /// on until the machine restarts
    #[arg(long)]
    pub(crate) optimise: bool,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("amount").required(true).args(["pages", "all"])))]
pub(crate) struct ReleaseArgs {
    /// The size of one page: 2M, 1G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) size: Bytes,
    /// How many pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pages: Option<u64>,
    /// All that are free and promised to nobody
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DemoteArgs {
    /// How many pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pages: u64,
    /// The size of one page
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    pub(crate) size: Bytes,
    /// The size of what they become
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = size)]
    pub(crate) into: Bytes,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

/// What all orders have.
#[derive(Args, Debug)]
pub(crate) struct OrderArgs {
    /// Pages of this NUMA node only
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<u32>,
    /// Say what would be done and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// A size as the kernel's own parameters have it: units are powers of two, `2M` is `2MiB` is
/// `2048kB`.
fn size(text: &str) -> Result<Bytes, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("it is a number and a unit, like 2M or 1G".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "it begins with a number, like 2M".to_owned())?;
    let bytes = number.checked_mul(1 << shift).filter(|&bytes| bytes > 0);
    bytes.map(Bytes).ok_or_else(|| "it is more than nothing and less than 16 EiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        for text in ["2M", "2m", "2MiB", "2MB", "2048kB", "2097152"] {
            assert_eq!(size(text), Ok(Bytes(2 << 20)), "{text}");
        }
        assert_eq!(size("1G"), Ok(Bytes(1 << 30)));
        for text in ["", "M", "2X", "-2M", "0", "2 M", "99999999999G", "1.5G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
