//! Progress of long work: on stderr, and only if that is a terminal.
//!
//! **Never** writes to stdout, and **never** decides anything: a run with and without it is the same.
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use onnx_shrink_driver::{Progress, Silent, Stage};

/// Bars on the terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bars;

/// Bars if stderr is a terminal and the user did not ask for silence, nothing otherwise.
pub fn for_stderr(quiet: bool) -> Box<dyn Progress> {
    if quiet || !std::io::stderr().is_terminal() { Box::new(Silent) } else { Box::new(Bars) }
}

impl Progress for Bars {
    fn stage(&self, name: &str, total: Option<u64>) -> Box<dyn Stage> {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = if total.is_some() { "{msg} {bar:30} {pos}/{len}, {eta} left" } else { "{spinner} {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Box::new(Shown(bar))
    }
}

struct Shown(ProgressBar);

impl Stage for Shown {
    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
