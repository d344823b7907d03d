//! An address space as a picture: one square a block of 2 MiB, filled from below by what it holds.

use recoup_reclaim::outcome::ProcessOutcome;
use recoup_reclaim::scan::picture::{Cell, Content};
use recoup_sys::Pages;
use recoup_sys::units::PAGES_PER_BLOCK;
use svg::Document;
use svg::node::element::{Group, Rectangle, Text, Title};

use super::map_terminal::areas;
use super::palette::look;
use super::{human, plain};

/// Squares in a row.
const COLUMNS: usize = 64;
/// Width and height of a square, and the distance between two.
const SIDE: f64 = 13.0;
const PITCH: f64 = 15.0;
const MARGIN: f64 = 20.0;
const LINE: f64 = 18.0;
/// Squares that a picture has at most: past that, no viewer opens it gladly.
const MOST_CELLS: usize = 65_536;

pub(crate) fn draw(process: &ProcessOutcome) -> Document {
    let shown = &process.picture[..process.picture.len().min(MOST_CELLS)];
    let mut y = MARGIN + LINE;
    let heading = format!(
        "process {} ({}): {} resident; a square is 2 MiB of addresses",
        process.pid,
        plain(&process.comm),
        human(process.rss)
    );
    let mut drawing = Group::new().add(text(MARGIN, MARGIN, &heading).set("font-weight", "bold"));
    for content in Content::ALL {
        let pages = process.picture.iter().map(|cell| u64::from(cell.count(content))).sum();
        drawing = drawing.add(legend(content, Pages(pages), y));
        y += LINE;
    }
    if shown.len() < process.picture.len() {
        let rest = process.picture.len() - shown.len();
        y += LINE;
        drawing = drawing.add(text(MARGIN, y, &format!("{rest} more blocks are not drawn")));
    }
    for area in areas(shown) {
        y += LINE;
        drawing = drawing.add(text(MARGIN, y, &format!("{:x}", area[0].start.address())));
        y += 6.0;
        for row in area.chunks(COLUMNS) {
            drawing = row.iter().enumerate().fold(drawing, |drawing, (column, cell)| {
                drawing.add(square(cell, MARGIN + PITCH * column_offset(column), y))
            });
            y += PITCH;
        }
    }
    let width = 2.0 * MARGIN + PITCH * column_offset(COLUMNS);
    let height = y + MARGIN;
    let paper = Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white");
    Document::new()
        .set("viewBox", (0.0, 0.0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .add(paper)
        .add(drawing)
}

fn column_offset(column: usize) -> f64 {
    f64::from(u32::try_from(column).unwrap_or(u32::MAX))
}

fn text(x: f64, y: f64, content: &str) -> Text {
    Text::new(content).set("x", x).set("y", y)
}

fn legend(content: Content, amount: Pages, y: f64) -> Group {
    let look = look(content);
    // What an empty table covers is address space, not memory.
    let label = match content {
        Content::EmptyTable => format!("{}: {}", look.label, amount.0 / PAGES_PER_BLOCK as u64),
        _ => format!("{}: {}", look.label, human(amount.bytes())),
    };
    let sample = rectangle(MARGIN, y - SIDE + 2.0, SIDE).set("fill", look.fill);
    Group::new().add(sample).add(text(MARGIN + PITCH + 6.0, y, &label))
}

fn rectangle(x: f64, y: f64, height: f64) -> Rectangle {
    Rectangle::new().set("x", x).set("y", y).set("width", SIDE).set("height", height)
}

/// A square with a band for each kind of content, as high as its share of the block.
fn square(cell: &Cell, x: f64, y: f64) -> Group {
    let full = f64::from(u32::try_from(PAGES_PER_BLOCK).unwrap_or(u32::MAX));
    let frame = rectangle(x, y, SIDE).set("fill", "#f2f2f2").set("stroke", "#bbbbbb");
    let mut group = Group::new().add(Title::new(describe(cell))).add(frame);
    let mut bottom = y + SIDE;
    for content in Content::ALL {
        let height = SIDE * f64::from(cell.count(content)) / full;
        if height > 0.0 {
            // Even a single page must be seen, without pushing out the others.
            let visible = height.max(1.0).min(bottom - y);
            bottom -= visible;
            group = group.add(rectangle(x, bottom, visible).set("fill", look(content).fill));
        }
    }
    group
}

fn describe(cell: &Cell) -> String {
    let parts = Content::ALL.into_iter().filter(|&content| cell.count(content) > 0);
    let part = |content| format!("{} pages: {}", cell.count(content), look(content).label);
    let parts: Vec<String> = parts.map(part).collect();
    format!("{:x}\n{}", cell.start.address(), parts.join("\n"))
}
