//! `recoup schema`: the JSON schema of the documents that other programs rely on.

use super::Done;
use crate::show::json;

pub(crate) fn run() -> anyhow::Result<Done> {
    json::print(&json::schema())?;
    Ok(Done::All)
}
