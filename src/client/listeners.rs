//! Callbacks by channel. Input: subscriptions from any thread, events from the client's task. A panic in one callback does not
//! affect the others.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::payload::Payload;

/// An event of the server, or of the client itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// The channel.
    pub channel: String,
    /// The payload.
    pub payload: Payload,
}

type Callback = Arc<dyn Fn(&Event) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct Listeners {
    listeners: Arc<Mutex<ByChannel>>,
}

#[derive(Default)]
struct ByChannel {
    last: u64,
    callbacks: HashMap<String, Vec<(u64, Callback)>>,
}

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, ByChannel> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(
        &self,
        channel: &str,
        callback: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Subscription {
        let mut listeners = self.lock();
        listeners.last += 1;
        let number = listeners.last;
        listeners.callbacks.entry(channel.to_owned()).or_default().push((number, Arc::new(callback)));
        Subscription { listeners: self.clone(), channel: channel.to_owned(), number }
    }

    pub(super) fn remove_all(&self, channel: &str) {
        self.lock().callbacks.remove(channel);
    }

    fn remove(&self, channel: &str, number: u64) {
        let mut listeners = self.lock();
        if let Some(callbacks) = listeners.callbacks.get_mut(channel) {
            callbacks.retain(|(other, _)| *other != number);
            if callbacks.is_empty() {
                listeners.callbacks.remove(channel);
            }
        }
    }

    /// Calls the callbacks of the channel, then those of `*`, each in the order of subscription. No lock is held, so a
    /// callback may subscribe and unsubscribe.
    pub(super) fn notify(&self, event: &Event) {
        let callbacks: Vec<Callback> = {
            let listeners = self.lock();
            let of = |channel: &str| listeners.callbacks.get(channel).into_iter().flatten();
            of(&event.channel).chain(of("*")).map(|(_, callback)| callback.clone()).collect()
        };
        for callback in callbacks {
            // The panic hook has reported it; the client goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| callback(event)));
        }
    }
}

/// A registered callback. Dropping this does not end it; [`unsubscribe`](Subscription::unsubscribe) does.
pub struct Subscription {
    listeners: Listeners,
    channel: String,
    number: u64,
}

impl Subscription {
    /// Removes the callback. It is not called for later events.
    pub fn unsubscribe(self) {
        self.listeners.remove(&self.channel, self.number);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("channel", &self.channel).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_are_called_in_order_whatever_they_do() {
        let listeners = Listeners::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let seen = seen.clone();
            move |event: &Event| seen.lock().unwrap().push(format!("{name} {}", event.channel))
        };
        let everything = listeners.add("*", note("all"));
        let first = listeners.add("a", note("first"));
        let slot: Arc<Mutex<Option<Subscription>>> = Arc::default();
        let own = slot.clone();
        let once = listeners.add("a", move |_| {
            if let Some(subscription) = own.lock().unwrap().take() {
                subscription.unsubscribe();
            }
        });
        *slot.lock().unwrap() = Some(once);
        let _panics = listeners.add("a", |_| std::panic::resume_unwind(Box::new("on purpose")));
        let _last = listeners.add("a", note("last"));
        let notify = |channel: &str| {
            listeners.notify(&Event { channel: channel.to_owned(), payload: Payload::none() });
            std::mem::take(&mut *seen.lock().unwrap())
        };
        assert_eq!(notify("a"), ["first a", "last a", "all a"]);
        assert!(slot.lock().unwrap().is_none());
        first.unsubscribe();
        assert_eq!(notify("a"), ["last a", "all a"]);
        listeners.remove_all("a");
        assert_eq!(notify("a"), ["all a"]);
        everything.unsubscribe();
        assert!(notify("b").is_empty());
        assert!(listeners.lock().callbacks.is_empty());
    }
}
