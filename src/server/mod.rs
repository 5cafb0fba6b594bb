//! The server: sockets, tasks and handlers around the machines of [`protocol`](crate::protocol).
//!
//! ```text
//! lifecycle ─► listen ─► upgrade (hyper) ─► driver (one task per client) ─► handler
//!                           │                 │
//!                           ▼                 ▼
//!                         pages            shared ─► hub, router, observer, metrics
//! ```
//!
//! A file imports only from those below it. After the upgrade hyper is done: the driver owns the socket and a
//! [`Session`](crate::protocol::session::Session). No lock is held while anything is awaited, polled or written.

mod admission;
mod authentication;
mod call;
mod client;
mod clock;
mod config;
mod connection;
#[cfg(feature = "pages")]
mod content;
mod context;
mod driver;
mod gate;
mod groups;
mod guards;
mod http;
mod hub;
mod identity;
mod lifecycle;
mod listen;
mod memory;
mod metrics;
mod notices;
mod observer;
#[cfg(feature = "pages")]
mod pages;
mod places;
mod router;
mod same_user;
mod shared;
mod ticket;
mod upgrade;

pub use admission::Peer;
pub use authentication::{Attempt, Refusal};
pub use call::{Call, Called};
pub use client::ClientInfo;
pub use config::{Callback, ClientId, Config, ServerError};
pub use connection::Connection;
#[cfg(feature = "pages")]
pub use content::Content;
pub use groups::{Group, JoinError};
pub use guards::{Guard, RateLimit};
pub use identity::Identity;
#[cfg(feature = "backend")]
pub(crate) use identity::Party;
pub use metrics::{Limited, Stats};
pub use observer::{Authenticated, Completed, Observer, Refused, Slow, Visit};
#[cfg(feature = "pages")]
pub use pages::Page;
#[cfg(feature = "backend")]
pub(crate) use places::{Place, Places};
pub use router::Verdict;
pub use shared::{RequestContext, Server};
