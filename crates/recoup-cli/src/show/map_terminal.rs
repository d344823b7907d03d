//! An address space on the terminal: one character a block of 2 MiB.

use recoup_reclaim::outcome::ProcessOutcome;
use recoup_reclaim::scan::picture::{Cell, Content};
use recoup_sys::units::BLOCK;

use super::palette::look;
use super::plain;

/// Characters in a line.
const WIDTH: usize = 64;

pub(crate) fn print(process: &ProcessOutcome) {
    anstream::println!(
        "process {} ({}), a character is 2 MiB; the most telling content decides\n",
        process.pid,
        plain(&process.comm)
    );
    for area in areas(&process.picture) {
        anstream::println!("{:x}", area[0].start.address());
        for line in area.chunks(WIDTH) {
            anstream::println!("  {}", line.iter().map(glyph).collect::<String>());
        }
    }
    anstream::println!();
    for content in Content::ALL {
        let look = look(content);
        let (style, glyph) = (look.style(), look.glyph);
        anstream::println!("  {style}{glyph}{style:#} {}", look.label);
    }
}

/// The cells in stretches without a gap.
pub(crate) fn areas(cells: &[Cell]) -> impl Iterator<Item = &[Cell]> {
    cells.chunk_by(|a, b| a.start + BLOCK.whole_pages() == b.start)
}

fn glyph(cell: &Cell) -> String {
    let most_telling = Content::ALL.into_iter().find(|&content| cell.count(content) > 0);
    most_telling.map_or(" ".to_owned(), |content| {
        let (style, glyph) = (look(content).style(), look(content).glyph);
        format!("{style}{glyph}{style:#}")
    })
}
