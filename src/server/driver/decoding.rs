//! Decoding large messages. Input: a message. Output: its request, after a place was free and a thread beside the workers has
//! decoded it. Meanwhile the worker thread serves other clients.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::spawn_blocking;

use crate::protocol::session::{Decoded, Undecoded};

use super::super::shared::Client;

/// A message that is being decoded, or waits for a place.
pub(super) struct Decoding(Pin<Box<dyn Future<Output = Option<Decoded>> + Send>>);

impl Decoding {
    pub(super) fn new(client: &Client, message: Undecoded) -> Decoding {
        let (places, party) = (client.shared.decoding.clone(), client.party());
        Decoding(Box::pin(async move {
            let place = places.acquire(party).await;
            // The thread goes on when the client leaves, so it keeps the place.
            let decode = move || {
                let decoded = message.decode();
                drop(place);
                decoded
            };
            spawn_blocking(decode).await.ok()
        }))
    }

    /// Returns nothing if the runtime ends.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Decoded>> {
        self.0.as_mut().poll(cx)
    }
}
