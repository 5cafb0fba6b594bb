//! A WebSocket request/response and event server: clients send requests with ids and get responses, and the server pushes
//! events.
//!
//! The [`guide`] describes how everything works together: the [wire protocol](guide::wire), every [limit](guide::limits), the
//! [clients](guide::clients), [security](guide::security), and [how the code is organised](guide::architecture).
//!
//! | to | use |
//! |---|---|
//! | serve on a tokio runtime | [`Server`], [`Config`] |
//! | respond to a request | [`Payload`], [`RequestContext`], [`HandlerError`] |
//! | watch what clients do | [`Observer`] |
//! | speak the protocol without sockets | [`protocol`] |
//! | call a server (feature `client`) | [`client::Client`] |
//! | serve chats, models, settings and more from SQLite (feature `backend`) | [`backend::register_all`] |
//!
//! ```no_run
//! use serde_json::json;
//! use switchboard::{Config, HandlerError, Payload, RequestContext, Server};
//!
//! # async fn run() -> std::io::Result<()> {
//! let server = Server::new(Config::default().port(3001));
//! server.on_request("double", |payload: Payload, _cx: RequestContext| async move {
//!     let number = payload.parse()?.as_f64().ok_or(HandlerError::new("expected a number"))?;
//!     Ok(json!(number * 2.0))
//! });
//! let port = server.start().await?;
//! server.emit("server:ready", json!({ "port": port }));
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `pages` (default) | HTTP pages beside the WebSocket: [`Config::serve_console`] and others, `Server::on_get`; no dependency |
//! | `client` | the client in Rust |
//! | `backend` | the channels on SQLite, providers of models and images, and the `switchboard` command; includes the other two |
//!
//! # The protocol without sockets
//!
//! [`Session`](protocol::session::Session) is the server's end of one client: bytes and the time in; bytes, requests and a
//! deadline out. Whoever drives it reads, hands over what it read, answers requests, writes what has come together,
//! and comes back at the deadline. [`Server`] does so on tokio; here is the same loop on a blocking socket:
//!
//! ```no_run
//! use std::io::{ErrorKind, Read, Write};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use switchboard::protocol::session::{Action, Rules, Session};
//! use switchboard::protocol::time::Now;
//! use switchboard::protocol::uuid::Uuid;
//! use switchboard::{ErrorCode, HandlerError};
//!
//! /// Serves one client whose upgrade was answered.
//! fn serve(mut socket: std::net::TcpStream, clock: impl Fn() -> Now) -> std::io::Result<()> {
//!     let mut session = Session::new(Arc::new(Rules::default()), Uuid::v4(), true, clock().at);
//!     let mut out = Vec::new();
//!     let mut input = [0; 16 << 10];
//!     session.open(clock(), &mut out);
//!     loop {
//!         socket.write_all(&out)?;
//!         out.clear();
//!         if session.is_finished() {
//!             return Ok(());
//!         }
//!         let now = clock();
//!         let patience = session.deadline().since(now.at).max(Duration::from_millis(1));
//!         socket.set_read_timeout(Some(patience))?;
//!         let count = match socket.read(&mut input) {
//!             Ok(0) => return Ok(()),
//!             Ok(count) => count,
//!             Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
//!             Err(error) => return Err(error),
//!         };
//!         let now = clock();
//!         let mut rest = &mut input[..count];
//!         while !rest.is_empty() {
//!             let step = session.handle_input(now, rest, &mut out);
//!             if let Some(Action::Request(request)) = step.action {
//!                 let result = match request.channel().as_deref() {
//!                     Some("echo") => Ok(request.payload()),
//!                     _ => Err(HandlerError::with_code(ErrorCode::UnknownChannel, "only echo is served")),
//!                 };
//!                 session.answer(now, request, result, &mut out);
//!             }
//!             rest = &mut rest[step.consumed..];
//!         }
//!         // Pings, idle clients, and how long a close may take.
//!         if now.at >= session.deadline() && !session.handle_deadline(now, &mut out) {
//!             return Ok(());
//!         }
//!     }
//! }
//! ```
//!
//! A request whose answer takes longer is parked with [`Session::park`](protocol::session::Session::park), and answered with
//! [`answer_parked`](protocol::session::Session::answer_parked); such a loop also calls
//! [`expire`](protocol::session::Session::expire) at its deadline.
//!
#![cfg_attr(feature = "client", doc = "[`client::Client`]: crate::client::Client")]
#![cfg_attr(not(feature = "client"), doc = "[`client::Client`]: crate::guide::clients#rust")]
#![cfg_attr(feature = "backend", doc = "[`backend::register_all`]: crate::backend::register_all")]
#![cfg_attr(not(feature = "backend"), doc = "[`backend::register_all`]: crate::guide::channels")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::panic, clippy::unreachable, clippy::unwrap_used))]

/// Compiles the examples of the README as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "backend")]
pub mod backend;
#[cfg(feature = "client")]
pub mod client;
// Its examples use what the features add.
#[cfg(any(all(doc, not(doctest)), all(doctest, feature = "backend")))]
pub mod guide;
pub mod protocol;
pub mod server;

#[doc(inline)]
pub use protocol::error::{ErrorCode, WireError as HandlerError};
#[doc(inline)]
pub use protocol::limits::Limits;
#[doc(inline)]
pub use protocol::payload::Payload;
#[doc(inline)]
pub use server::{
    Callback, ClientId, ClientInfo, Completed, Config, Observer, RequestContext, Server, ServerError, Stats,
    Visit,
};
#[cfg(feature = "pages")]
#[doc(inline)]
pub use server::{Content, Page};
