//! Everything that is printed or drawn. Nothing here looks at a process or changes one.

pub(crate) mod doctor;
pub(crate) mod json;
pub(crate) mod map_svg;
pub(crate) mod map_terminal;
pub(crate) mod palette;
pub(crate) mod pool;
pub(crate) mod pool_json;
pub(crate) mod progress;
pub(crate) mod table;

use recoup_sys::Bytes;

/// An amount for people: `1.3 GiB`, or a dash for nothing.
pub(crate) fn human(amount: Bytes) -> String {
    match amount.0 {
        0 => "-".to_owned(),
        bytes => bytesize::ByteSize(bytes).display().iec().to_string(),
    }
}

/// Text from a process (a name, a path) that cannot move the cursor or colour the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_nothing_is_a_dash() {
        assert_eq!(human(Bytes(0)), "-");
        assert_eq!(human(Bytes(1_438_646_272)), "1.3 GiB");
    }

    #[test]
    fn a_name_cannot_play_tricks_on_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a?[31mb?c");
    }
}
