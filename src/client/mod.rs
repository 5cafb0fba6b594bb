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
//! | `connection:reconnecting` | `{attempt, delayMs}` | the next attempt follows after this pause |
//! | `connection:failed` | `{attempts}` | all attempts have failed; no more follow |

pub(crate) mod connect;
mod handle;
mod link;
mod listeners;
mod options;
mod shared;
#[cfg(feature = "backend")]
pub(crate) mod tls;

pub use handle::Client;
pub use listeners::{Event, Subscription};
pub use options::ClientOptions;
pub use shared::ConnectionState;
