//! What recoup's tests and benchmarks share.
//!
//! Nothing here uses the code under test to judge it: effects are read from smaps, `status` and the
//! cgroup's own files.

pub mod figure;
pub mod host;
pub mod hugepages;
pub mod kernel;
pub mod numbers;
pub mod ratio;
pub mod require;
pub mod tracer;
pub mod workload;

pub use figure::{Figure, Size};
pub use host::HostSetting;
pub use hugepages::HugePages;
pub use workload::Workload;
