//! The handlers, guards and callbacks of a world.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{HandlerError, Payload, RateLimit, RequestContext, Server};
use tokio::time::{Instant, sleep};

use super::events::{LOUD, VIP};
use super::{AtWork, World};
use crate::support::random::Rng;

/// The users that may do what is guarded.
pub const ADMIN: u64 = 0;

impl World {
    fn handler<F, Fut>(self: &Arc<World>, channel: &'static str, handler: F)
    where
        F: Fn(Value, RequestContext, Server) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, HandlerError>> + Send + 'static,
    {
        let world = Arc::downgrade(self);
        self.server.on_request(channel, move |payload: Payload, cx: RequestContext| {
            let world = world.upgrade().expect("the world outlives its requests");
            world.count(channel);
            world.running.fetch_add(1, Ordering::Relaxed);
            let user = world.identify(&cx).map(|(user, _)| user);
            world.change(cx.client_id, |member| {
                assert_eq!(member.user, user, "the identity of a connection does not change");
                // The end of the server can come while a guard waits.
                if channel != "admin:later" {
                    member.handled.push(Instant::now());
                }
            });
            let at_work = AtWork(world.running.clone());
            let server = cx.server();
            let answer = handler(payload.parse().unwrap_or_default(), cx, server);
            async move {
                let result = answer.await;
                drop(at_work);
                result
            }
        });
    }

    pub fn register(self: &Arc<World>) {
        self.authenticate();
        self.callbacks();
        self.guards();
        self.handler("echo", |payload, _, _| async move { Ok(payload.into()) });
        self.handler("wait", |payload, _, _| async move {
            sleep(Duration::from_millis(payload["ms"].as_u64().unwrap_or(1))).await;
            Ok(payload.into())
        });
        self.handler("fail", |_, _, _| async { Err(HandlerError::new("asked to fail")) });
        self.handler("panic", |payload, _, _| async move {
            if payload["ms"].is_u64() {
                sleep(Duration::from_millis(payload["ms"].as_u64().unwrap_or(1))).await;
            }
            panic!("asked to panic")
        });
        self.handler("never", |_, _, _| std::future::pending());
        self.handler("big", |payload, _, _| async move {
            let bytes = payload["bytes"].as_u64().unwrap_or(1) as usize;
            Ok(Value::from("x".repeat(bytes)).into())
        });
        // Events to the client that asks, in order, all before the response.
        self.handler("own", |payload, cx, _| async move {
            for n in 0..payload["events"].as_u64().unwrap_or(0) {
                if payload["pauses"] == true {
                    sleep(Duration::from_millis(1)).await;
                }
                let event = Payload::from(json!({"of": payload["name"], "n": n}));
                cx.emit("own", event);
            }
            Ok(payload.into())
        });
        for (channel, joins) in [("join", true), ("leave", false), ("admin:join", true)] {
            let world = Arc::downgrade(self);
            self.handler(channel, move |payload, cx, _| {
                let world = world.upgrade().expect("the world outlives its requests");
                let room = payload["room"].as_str().unwrap_or(VIP).to_owned();
                let moved = world.moves(&cx.connection(), &room, joins);
                async move { moved.map(|()| Payload::none()) }
            });
        }
        let world = Arc::downgrade(self);
        self.handler("all", move |_, _, _| {
            let world = world.upgrade().expect("the world outlives its requests");
            async move {
                world.tell_everyone();
                Ok(Payload::none())
            }
        });
        self.handler("admin:later", |_, _, _| async { Ok(Payload::none()) });
        self.handler("limited", |_, _, _| async { Ok(Payload::none()) });
        self.handler("guard:panic", |_, _, _| async { panic!("its guard has panicked") });
        // Who the client is when its request is handled.
        let world = Arc::downgrade(self);
        self.handler("whoami", move |_, cx, _| {
            let world = world.upgrade().expect("the world outlives its requests");
            let who = world.identify(&cx);
            async move { Ok(json!(who).into()) }
        });
        let world = Arc::downgrade(self);
        self.handler("sign-out", move |payload, cx, _| {
            let world = world.upgrade().expect("the world outlives its requests");
            let (code, reason) = world.new_kick(&mut Rng::new(payload.as_u64().unwrap_or_default()));
            world.kicked(&[cx.client_id], code, &reason, Some(cx.request_id()));
            cx.connection().close(code, &reason);
            async { Ok(Payload::none()) }
        });
    }

    fn callbacks(self: &Arc<World>) {
        let world = Arc::downgrade(self);
        self.server.on_connection(move |connection| {
            let world = world.upgrade().expect("the world outlives its clients");
            let name = connection.identity().map(|identity| identity.id().to_owned());
            let user = name.map(|name| name.strip_prefix("user:").unwrap().parse().unwrap());
            world.change(connection.id(), |member| member.user = user);
            let start = world.marks(connection.id());
            world.change(connection.id(), |member| member.start = start);
            if world.is_loud && connection.id().as_bytes()[0] & 1 == 0 && connection.join(LOUD).is_ok() {
                world.loud.lock().unwrap().push(connection.id());
            }
        });
        let world = Arc::downgrade(self);
        self.server.on_disconnection(move |connection, ending| {
            let Some(world) = world.upgrade() else { return };
            world.change(connection.id(), |member| {
                assert!(member.ending.replace(ending.clone()).is_none(), "it disconnects twice");
            });
        });
    }

    fn guards(self: &Arc<World>) {
        let world = Arc::downgrade(self);
        let is_admin = move |cx: &RequestContext| {
            let world = world.upgrade().expect("the world outlives its requests");
            world.identify(cx).is_none_or(|(user, _)| user == ADMIN)
        };
        let is_later_admin = is_admin.clone();
        self.server.guard_prefix("admin:join", move |cx: RequestContext, _: Arc<str>| match is_admin(&cx) {
            true => Ok(()),
            false => Err(forbidden()),
        });
        self.server.guard_prefix("admin:later", move |cx: RequestContext, _: Arc<str>| {
            let is_admin = is_later_admin(&cx);
            async move {
                sleep(Duration::from_millis(5)).await;
                if is_admin { Ok(()) } else { Err(forbidden()) }
            }
        });
        self.server.guard_prefix("guard:", |_: RequestContext, _: Arc<str>| -> Result<(), HandlerError> {
            panic!("asked to panic")
        });
        // It knows what the next guard has to decide.
        let world = Arc::downgrade(self);
        self.server.guard_prefix("limited", move |cx: RequestContext, _: Arc<str>| {
            let world = world.upgrade().expect("the world outlives its requests");
            let key = cx.identity().map_or(cx.client_id.to_string(), |identity| identity.id().to_owned());
            world.quota.note(key, (cx.client_id, cx.request_id()), world.now_ms());
            Ok::<(), HandlerError>(())
        });
        self.server.guard_prefix("limited", RateLimit::per_identity(self.quota.max, self.quota.window));
    }
}

fn forbidden() -> HandlerError {
    HandlerError::custom("FORBIDDEN", "only administrators can do this")
}
