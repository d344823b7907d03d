//! What works here, for people and for programs.

use recoup_sys::{Features, Support};
use serde::Serialize;

/// What recoup can do, and what of the kernel each thing needs.
fn mechanisms(features: &Features) -> [(&'static str, Vec<&Support>); 8] {
    let look = [&features.base_pages, &features.frame_numbers, &features.frame_flags];
    let act = [&features.process_madvise, &features.advise_others];
    let with = |more: &[&'static str]| {
        let named = features.named().filter(|(name, _)| more.contains(name));
        look.into_iter().chain(named.map(|(_, support)| support)).collect::<Vec<_>>()
    };
    [
        ("find holes in huge pages", with(&["thp"])),
        ("find lazily freed memory", with(&[])),
        ("count empty and zero-page tables", vec![&features.base_pages, &features.frame_numbers]),
        ("find empty tables' places (--map)", vec![&features.empty_tables]),
        ("split huge pages, drop lazily freed memory", with(&[]).into_iter().chain(act).collect()),
        ("free a program's own tables while it runs", with_fence(features)),
        ("let a program's end be seen before its memory is freed", vec![&features.companion]),
        ("look at other users' processes", vec![&features.other_processes]),
    ]
}

/// What the library's fence needs.
fn with_fence(features: &Features) -> Vec<&Support> {
    let Features { base_pages, pagemap_scan, table_reclaim, userfaultfd, .. } = features;
    vec![base_pages, pagemap_scan, table_reclaim, userfaultfd]
}

/// Facts that make things faster or the account complete, without which all still works.
fn extras(features: &Features) -> [(&'static str, &Support); 5] {
    [
        ("search sparse address spaces fast", &features.pagemap_scan),
        ("sweep a program's own tables where they are", &features.empty_tables),
        ("tell hugetlb memory of other mount namespaces", &features.procmap_query),
        ("show what cgroups are charged", &features.memory_cgroup),
        ("large discards free their page tables by themselves", &features.table_reclaim),
    ]
}

pub(crate) fn print(features: &Features) {
    anstream::println!("kernel {}\n", features.kernel);
    for (what, needs) in mechanisms(features) {
        line(what, &needs);
    }
    for (what, need) in extras(features) {
        line(what, &[need]);
    }
}

/// One line if it works; else another one with the first thing that is missing and its remedy.
fn line(what: &str, needs: &[&Support]) {
    let missing = Support::first_missing(needs.iter().copied());
    match missing {
        None => anstream::println!("works    {what}"),
        Some((why, remedy)) => {
            anstream::println!("missing  {what}\n         {why}: {remedy}");
        }
    }
}

#[derive(Serialize)]
pub(crate) struct DoctorDocument {
    schema: u32,
    kernel: String,
    features: Vec<FeatureDocument>,
}

#[derive(Serialize)]
struct FeatureDocument {
    name: &'static str,
    works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

pub(crate) fn document(features: &Features) -> DoctorDocument {
    let one = |(name, support): (&'static str, &Support)| {
        let (why, remedy) = match support {
            Support::Works => (None, None),
            Support::Missing { why, remedy } => (Some(why.clone()), Some(*remedy)),
        };
        FeatureDocument { name, works: support.works(), why, remedy }
    };
    DoctorDocument {
        schema: 1,
        kernel: features.kernel.clone(),
        features: features.named().map(one).collect(),
    }
}
