//! Columns of text for people.

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

/// Lays rows out below the titles of their columns. What a cell has of control characters, which
/// may come from strangers, is left out.
pub(super) fn table<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> Vec<String> {
    let titles = columns.map(|column| column.title().to_owned());
    let rows: Vec<[String; N]> =
        std::iter::once(&titles).chain(rows).map(|row| row.each_ref().map(|c| clean(c))).collect();
    let width = |index: usize| rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells =
            row.iter().zip(columns).zip(&widths).map(|((cell, column), width)| match column {
                Column::Left(_) => format!("{cell:width$}"),
                Column::Right(_) => format!("{cell:>width$}"),
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Returns the text without control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "10".to_owned()], ["béc\u{1b}[1m".to_owned(), "9".to_owned()]];
        let lines = table([Column::Left("NAME"), Column::Right("N")], &rows);
        assert_eq!(lines, ["NAME     N", "a       10", "béc[1m   9"]);
    }
}
