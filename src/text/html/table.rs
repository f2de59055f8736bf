//! Tables as text with aligned columns: no platform in reach draws them. Pure.

use pulldown_cmark::Alignment;

#[derive(Default)]
pub(super) struct Table {
    pub alignments: Vec<Alignment>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Aligned in a fixed-width font.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0);
        // A cell wider than a screen is not worth the padding of all the others.
        let widths: Vec<usize> = (0..columns).map(|column| widest(column).min(40)).collect();
        let mut lines = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = widths.iter().enumerate().map(|(column, wide)| {
                let cell = row.get(column).map_or("", String::as_str);
                let space = wide.saturating_sub(width(cell));
                let left = match self.alignments.get(column) {
                    Some(Alignment::Right) => space,
                    Some(Alignment::Center) => space / 2,
                    _ => 0,
                };
                format!("{}{cell}{}", " ".repeat(left), " ".repeat(space - left))
            });
            lines.push(cells.collect::<Vec<_>>().join(" │ ").trim_end().to_owned());
            if number == 0 {
                lines.push(widths.iter().map(|wide| "─".repeat(*wide)).collect::<Vec<_>>().join("─┼─"));
            }
        }
        lines.join("\n")
    }
}

/// Columns of a terminal, roughly: East Asian characters and emoji take two.
fn width(text: &str) -> usize {
    let wide = |character: char| matches!(u32::from(character), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd);
    text.chars().map(|character| if wide(character) { 2 } else { 1 }).sum()
}
