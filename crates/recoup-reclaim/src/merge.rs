//! Puts the windows of a process together.

use std::collections::BTreeMap;

use recoup_sys::Bytes;

use crate::outcome::{MappingOutcome, ProcessOutcome, Reason};
use crate::run::{Mode, Runner};
use crate::scan::tables::Census;
use crate::window::{Subject, WindowOutcome};

impl Runner<'_> {
    /// Puts the windows of a process together.
    pub(crate) fn merge(&self, subject: &Subject, windows: Vec<WindowOutcome>) -> ProcessOutcome {
        let summary = &subject.summary;
        let mut process = ProcessOutcome {
            pid: subject.process.pid(),
            comm: summary.comm.clone(),
            rss: summary.rss,
            page_tables: summary.page_tables,
            ..ProcessOutcome::default()
        };
        let mut census = Census::default();
        let mut mappings: BTreeMap<usize, MappingOutcome> = BTreeMap::new();
        let mut ended = None;
        for window in windows {
            process.stuck += window.stuck;
            process.shared_holes += window.shared_holes;
            process.recovered += window.recovered;
            process.left_alone.merge(&window.left_alone);
            process.owners.add(window.owners);
            process.pages += window.pages;
            process.picture.extend(window.picture);
            census.add(&window.census);
            for (index, mapping) in window.mappings {
                let entry = mappings.entry(index).or_insert_with(|| mapping_of(subject, index));
                entry.stuck += mapping.stuck;
                entry.planned += mapping.planned;
            }
            ended = ended.or(window.ended);
        }
        process.mappings = mappings.into_values().collect();
        process.mappings.sort_by_key(|mapping| std::cmp::Reverse(mapping.stuck.total()));
        process.reconstructable_tables = census.reconstructable.bytes();
        match ended {
            None => self.add_tables(subject, &census, &mut process),
            Some(error) if error.is_gone() => {}
            Some(error) => process.error = Some(format!("process {}: {error}", process.pid)),
        }
        process
    }

    fn add_tables(&self, subject: &Subject, census: &Census, process: &mut ProcessOutcome) {
        process.stuck.zero_tables = census.zero_only.bytes();
        // Tables come and go while a process is scanned: what was there all along is the least.
        let now = subject.process.summary().map_or(Bytes::ZERO, |summary| summary.page_tables);
        let page_tables = now.min(process.page_tables);
        process.stuck.empty_tables = census.empty(page_tables, subject.layout.assumed_tables);
        if self.request.mode != Mode::Report {
            let tables = process.stuck.empty_tables + process.stuck.zero_tables;
            process.left_alone.add(Reason::OnlyFromInside, tables);
        }
    }
}

fn mapping_of(subject: &Subject, index: usize) -> MappingOutcome {
    let mapping = &subject.layout.mappings[index];
    MappingOutcome { range: mapping.range, name: mapping.name.clone(), ..MappingOutcome::default() }
}
