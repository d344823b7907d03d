//! `recoup completions` and `recoup man`: generated from the command line's own description.

use anyhow::Context;
use clap::CommandFactory;

use super::Done;
use crate::args::{Cli, CompletionsArgs, ManArgs};

pub(crate) fn completions(args: CompletionsArgs) -> anyhow::Result<Done> {
    clap_complete::generate(args.shell, &mut Cli::command(), "recoup", &mut std::io::stdout());
    Ok(Done::All)
}

pub(crate) fn man_pages(args: ManArgs) -> anyhow::Result<Done> {
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .with_context(|| format!("cannot write manual pages to {}", args.directory.display()))?;
    Ok(Done::All)
}
