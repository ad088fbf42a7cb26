//! How text is shown: colours and the width of lines.

/// Width where the terminal does not tell its own.
const WIDTH: usize = 100;

/// How text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether headings are bold
    pub bold: bool,
    /// Longest line, in characters; `None`: as long as it is
    pub width: Option<usize>,
}

impl Style {
    /// The style for standard output, which is a terminal or not. `NO_COLOR`, `CLICOLOR` and `COLUMNS` are respected.
    pub fn detect(terminal: bool) -> Style {
        let columns =
            std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|&width| width >= 40);
        Style { bold: colour_wanted(terminal), width: terminal.then(|| columns.unwrap_or(WIDTH)) }
    }
}

/// Whether to colour what goes to a stream that is a terminal or not: NO_COLOR and CLICOLOR=0 say no, CLICOLOR_FORCE yes.
pub fn colour_wanted(terminal: bool) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    let no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let off = std::env::var_os("CLICOLOR").is_some_and(|value| value == "0");
    !no && (is_set("CLICOLOR_FORCE") || (terminal && !off))
}
