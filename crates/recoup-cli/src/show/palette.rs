//! How each kind of content looks, on the terminal and in pictures: told apart by shade as well as
//! by hue, the stuck kinds in warm colours.

use anstyle::{AnsiColor, Color, Style};
use recoup_reclaim::scan::picture::Content;

/// The look of one kind of content.
pub(crate) struct Look {
    pub(crate) label: &'static str,
    pub(crate) fill: &'static str,
    pub(crate) glyph: char,
    colour: AnsiColor,
}

impl Look {
    pub(crate) fn style(&self) -> Style {
        Style::new().fg_color(Some(Color::Ansi(self.colour)))
    }
}

pub(crate) fn look(content: Content) -> Look {
    let look = |label, fill, glyph, colour| Look { label, fill, glyph, colour };
    match content {
        Content::Hole => {
            look("hole of a huge page (charged, unmapped)", "#d62728", 'O', AnsiColor::BrightRed)
        }
        Content::LazilyFreed => {
            look("lazily freed, still resident", "#ff9f1c", 'l', AnsiColor::BrightYellow)
        }
        Content::EmptyTable => look("empty page table", "#9b2fae", 'e', AnsiColor::BrightMagenta),
        Content::ZeroPage => look("shared zero page", "#c9b6e4", 'z', AnsiColor::Magenta),
        Content::WholeHugePage => look("whole huge page", "#1b7f3b", '#', AnsiColor::Green),
        Content::Anonymous => look("anonymous, in use", "#7bc98f", '+', AnsiColor::BrightGreen),
        Content::File => look("file or shared memory", "#8fb8de", 'f', AnsiColor::BrightBlue),
        Content::Swapped => look("swapped out", "#5c6370", 's', AnsiColor::BrightBlack),
    }
}
