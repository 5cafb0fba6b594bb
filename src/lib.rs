//! A WebSocket request/response and event server: clients send requests with ids and get responses, and the server pushes
//! events.
//!
//! The [`guide`] describes how everything works together: the [wire protocol](guide::wire), every [limit](guide::limits),
//! [what one client can cost](guide::budgets), the
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
//! server.on_request("double", |payload: Payload, cx: RequestContext| async move {
//!     let number = payload.parse()?.as_f64().ok_or(HandlerError::new("expected a number"))?;
//!     cx.server().emit("doubled", json!(number)); // to every client
//!     Ok(json!(number * 2.0))
//! });
//! let port = server.start().await?;
//! println!("ws://localhost:{port}");
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `pages` (default) | HTTP pages beside the WebSocket: `Config::serve_console` and others, `Server::on_get`; no dependency |
//! | `client` | the client in Rust |
//! | `backend` | the channels on SQLite, providers of models and images, and the `switchboard` command; includes the other two |
//!
//! # The protocol without sockets
//!
//! [`Session`](protocol::session::Session) is the server's end of one client: bytes and the time go in; bytes, requests and
//! a deadline come out. The code that drives it reads, passes on what it read, answers requests, writes what has
//! accumulated, and comes back at the deadline. [`Server`] does so on tokio. Here is the same loop on a blocking socket,
//! with requests that are answered at once and one that a thread answers later:
//!
//! ```no_run
//! use std::io::{ErrorKind, Read, Write};
//! use std::sync::{Arc, mpsc};
//! use std::time::Duration;
//!
//! use switchboard::protocol::session::{Action, Due, Rules, Session, Slot};
//! use switchboard::protocol::time::Now;
//! use switchboard::protocol::uuid::Uuid;
//! use switchboard::{ErrorCode, HandlerError, Payload};
//!
//! /// Where the result of a parked request will arrive.
//! type Waiting = mpsc::Receiver<Payload>;
//!
//! /// Serves one client whose upgrade was answered.
//! fn serve(mut socket: std::net::TcpStream, clock: impl Fn() -> Now) -> std::io::Result<()> {
//!     let mut session: Session<Waiting> =
//!         Session::new(Arc::new(Rules::default()), Uuid::v4(), true, clock().at);
//!     let mut parked: Vec<Slot> = Vec::new();
//!     let (mut input, mut out) = (Vec::new(), Vec::new());
//!     session.open(clock(), &mut out);
//!     loop {
//!         socket.write_all(&out)?;
//!         out.clear();
//!         if session.is_finished() {
//!             return Ok(());
//!         }
//!         // A blocking read cannot be woken, so results are looked for every 10 ms.
//!         let now = clock();
//!         let limit = if parked.is_empty() { Duration::MAX } else { Duration::from_millis(10) };
//!         let patience = session.deadline().since(now.at).clamp(Duration::from_millis(1), limit);
//!         if session.wants_input() {
//!             socket.set_read_timeout(Some(patience))?;
//!             let mut buffer = [0; 16 << 10];
//!             match socket.read(&mut buffer) {
//!                 Ok(0) => return Ok(()),
//!                 Ok(count) => input.extend_from_slice(&buffer[..count]),
//!                 Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
//!                 Err(error) => return Err(error),
//!             }
//!         } else {
//!             std::thread::sleep(patience);
//!         }
//!         let now = clock();
//!         parked.retain(|slot| match session.handler_mut(*slot).map(|waiting| waiting.try_recv()) {
//!             Some(Ok(payload)) => session.answer_parked(now, *slot, Ok(payload), &mut out).is_none(),
//!             Some(Err(mpsc::TryRecvError::Empty)) => true,
//!             // It has expired, or its thread has panicked: then its deadline answers it.
//!             _ => false,
//!         });
//!         // Parked requests whose time is up, pings, idle clients, the end of a close handshake.
//!         while let Some(due) = session.handle_deadline(now, &mut out) {
//!             match due {
//!                 Due::Expired(waiting) => drop(waiting),
//!                 Due::Cut => return socket.write_all(&out),
//!             }
//!         }
//!         let mut used = 0;
//!         while used < input.len() && (session.wants_input() || session.is_finished()) {
//!             let step = session.handle_input(now, &mut input[used..], &mut out);
//!             used += step.consumed;
//!             let action = match step.action {
//!                 // A thread that serves several clients would let another one decode it.
//!                 Some(Action::Decode(message)) => session.handle_decoded(now, message.decode(), &mut out),
//!                 action => action,
//!             };
//!             let Some(Action::Request(request)) = action else { continue };
//!             match request.channel().as_deref() {
//!                 Some("echo") => {
//!                     let payload = request.payload();
//!                     session.answer(now, request, Ok(payload), &mut out);
//!                 }
//!                 Some("later") => {
//!                     let (sender, waiting) = mpsc::channel();
//!                     let payload = request.payload();
//!                     std::thread::spawn(move || sender.send(payload));
//!                     let until = now.at + Duration::from_secs(30);
//!                     parked.push(session.park(request, until, |_| waiting));
//!                 }
//!                 _ => {
//!                     let error = HandlerError::with_code(ErrorCode::UnknownChannel, "no such channel");
//!                     session.answer(now, request, Err(error), &mut out);
//!                 }
//!             }
//!         }
//!         input.drain(..used);
//!     }
//! }
//! ```
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
pub use protocol::session::Ending;
#[doc(inline)]
pub use server::{
    Attempt, Authenticated, Call, Callback, Called, ClientId, ClientInfo, Completed, Config, Connection,
    Group, Guard, Identity, JoinError, Limited, Observer, Peer, RateLimit, Refusal, Refused, RequestContext,
    Server, ServerError, Slow, Stats, Verdict, Visit,
};
#[cfg(feature = "pages")]
#[doc(inline)]
pub use server::{Content, Page};
