//! `recoup doctor`: what works here, and the one thing to do for what doesn't.

use recoup_sys::Features;

use super::Done;
use crate::args::DoctorArgs;
use crate::show::{doctor, json};

pub(crate) fn run(args: DoctorArgs) -> anyhow::Result<Done> {
    let features = Features::probe()?;
    if args.json {
        json::print(&doctor::document(&features))?;
    } else {
        doctor::print(&features);
    }
    Ok(Done::All)
}
