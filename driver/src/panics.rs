//! Panics of our own code and of what it calls: their text, for messages.
use std::{
    any::Any,
    panic,
    sync::{Mutex, PoisonError},
};

/// The last panic: its message and place.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Engines panic on odd models and are caught where they run: such a panic is not the user's business. From now on a
/// panic prints nothing; its text is kept for [`text_of`].
pub fn keep_quiet() {
    panic::set_hook(Box::new(|info| {
        let text = info.to_string().replace('\n', " ");
        log::debug!("{text}");
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }));
}

/// What a panic that was caught said: with its place, where [`keep_quiet`] saw it.
pub fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = LAST.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return text;
    }
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
