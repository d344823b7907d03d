//! Progress on stderr, while it is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use recoup_reclaim::run::Observer;
use recoup_sys::Pages;

/// A bar that counts windows of address space. It draws nothing where stderr is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn on_stderr() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        let template = "{spinner} {wide_bar} {pos}/{len} windows of address space, {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Observer for Progress {
    fn planned(&self, windows: usize) {
        self.0.inc_length(windows as u64);
    }

    fn done(&self, _: Pages) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
