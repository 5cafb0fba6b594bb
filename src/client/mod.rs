//! The client (feature `client`): calls, events, and a connection that is opened again when it is lost.
//!
//! ```text
//! Client ─ commands ─► link (one task per client) ─► server
//!    ▲                    │  ▲
//! answers, events ◄───────┘  └─ connect (address, upgrade)
//! ```
//!
//! ```no_run
//! use serde_json::json;
//! use switchboard::client::{Client, ClientOptions};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("ws://localhost:3001", ClientOptions::default()).await?;
//! client.on_message("chat:created", |event| println!("new: {}", event.payload.as_str().unwrap_or_default()));
//! match client.send_message("chat:create", json!({ "title": "Groceries" })).await {
//!     Ok(chat) => println!("{}", chat.parse()?["id"]),
//!     Err(error) => println!("{}: {}", error.code, error.message),
//! }
//! client.disconnect().await;
//! # Ok(()) }
//! ```
//!
//! Besides the server's events, a client reports on its own connection:
//!
//! | channel | payload | when |
//! |---|---|---|
//! | `connection:open` | `{}` | the upgrade was answered |
//! | `connection:closed` | `{code: number \| null, reason}` | a connection has ended |
//! | `connection:reconnecting` | `{attempt, delayMs, reason}` | the next attempt follows after this pause |
//! | `connection:failed` | `{attempts, reason}` | no more attempts follow |
//! | `connection:auth-failed` | `{reason}` | a new token could not be sent on the open connection, which stays open |
//!
//! What follows when a connection has ended, or an attempt has failed:
//!
//! | close code, or answer to the upgrade | meaning | the client |
//! |---|---|---|
//! | 4401, or 401 | the credential is missing, wrong or expired | asks [`ClientOptions::token_source`] once more; without one, or the second time, it ends |
//! | 4403, or 403 | the credential is right and gives no access, or the server does not allow the client's `Host` | ends |
//! | any other, or none | the server stops, is overloaded or has closed the connection; the network fails | tries again after a pause |
//!
//! The first attempt, [`Client::open`], is an exception: if it fails, its error is returned at once, and no attempt follows.

pub(crate) mod connect;
pub(crate) mod dial;
mod handle;
mod link;
mod listeners;
mod options;
mod renewal;
mod shared;
mod source;
#[cfg(feature = "backend")]
pub(crate) mod tls;

pub use handle::Client;
pub use listeners::{Event, Subscription};
pub use options::ClientOptions;
pub use shared::ConnectionState;
pub use source::Source;
