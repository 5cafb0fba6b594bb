//! The authenticator of a world, and the credentials that clients make for it: each says what the authenticator does with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use switchboard::protocol::uuid::Uuid;
use switchboard::{Attempt, ClientId, Identity, Refusal, RequestContext};
use tokio::time::{Instant, sleep};

use super::{Access, SLACK, World};
use crate::support::random::Rng;

/// The number of users.
pub const USERS: u64 = 3;

/// What the authenticator does with a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    LetIn,
    Refuse(Refusal),
    /// It panics when it is called.
    Panic,
    /// It panics after its pause.
    PanicLater,
    Never,
}

/// A credential. Each is sent once.
pub struct Credential {
    pub user: u64,
    pub ruling: Ruling,
    /// How long it takes to decide; `None` for at once.
    pub pause: Option<Duration>,
    /// How long it is valid from the decision on.
    pub valid: Option<Duration>,
    /// Whether it is sent on channel `auth`.
    pub is_renewal: bool,
    /// Who the client that sends it is for the server at that time, if that is known.
    pub known: Option<u64>,
    made_at: Instant,
    /// Whether the authenticator was asked about it.
    pub is_asked: bool,
    pub decision: Option<Decision>,
}

impl Credential {
    fn is_late(&self, patience: Duration) -> bool {
        self.made_at.elapsed() + SLACK >= patience
    }

    fn has_panicked(&self) -> bool {
        self.is_asked && matches!(self.ruling, Ruling::Panic | Ruling::PanicLater)
    }
}

/// What the authenticator has decided.
#[derive(Debug, Clone)]
pub struct Decision {
    pub refusal: Option<Refusal>,
    at: Instant,
}

/// What the identity of a connection has with it.
pub struct Granted {
    pub credential: usize,
}

impl World {
    /// Makes a credential, mostly a good one.
    pub fn issue(&self, rng: &mut Rng, user: u64, is_renewal: bool, known: Option<u64>) -> usize {
        let ruling = match rng.below(if is_renewal { 100 } else { 200 }) {
            0..7 => Ruling::Refuse(Refusal::Unauthorized),
            7..14 => Ruling::Refuse(Refusal::unauthorized(format!("reason {}", rng.below(100)))),
            14..17 => Ruling::Refuse(Refusal::Forbidden),
            17..20 => Ruling::Refuse(Refusal::forbidden(format!("reason {}", rng.below(100)))),
            20..27 => Ruling::Refuse(Refusal::AwaitAuth),
            27..30 => Ruling::Panic,
            30..33 => Ruling::PanicLater,
            33..40 => Ruling::Never,
            _ => Ruling::LetIn,
        };
        let pause = match rng.below(100) {
            0..50 => None,
            50..90 => Some(Duration::from_millis(rng.between(1, 60))),
            // Around the time that it has.
            90..97 => Some(self.patience - Duration::from_millis(rng.between(25, 90))),
            _ => Some(self.patience + Duration::from_millis(rng.between(25, 90))),
        };
        let valid = match rng.below(100) {
            0..50 => None,
            50..96 => Some(Duration::from_millis(rng.between(200, 2500))),
            _ => Some(Duration::ZERO),
        };
        let mut credentials = self.credentials.lock().unwrap();
        credentials.push(Credential {
            user,
            ruling,
            pause,
            valid,
            is_renewal,
            known,
            made_at: Instant::now(),
            is_asked: false,
            decision: None,
        });
        credentials.len() - 1
    }

    /// The token of a credential.
    pub fn token(number: usize) -> String {
        format!("credential-{number}")
    }

    pub fn with_credential<T>(&self, number: usize, change: impl FnOnce(&mut Credential) -> T) -> T {
        change(self.credentials.lock().unwrap().get_mut(number).expect("a credential that was made"))
    }

    pub(super) fn authenticate(self: &Arc<World>) {
        let Access::Users { lets_in } = self.access else { return };
        let world = Arc::downgrade(self);
        self.server.authenticate(move |attempt: Attempt| {
            let world = world.upgrade().expect("the world outlives its connections");
            let number = attempt.bearer().map(|token| {
                let number = token.strip_prefix("credential-").and_then(|number| number.parse().ok());
                number.unwrap_or_else(|| panic!("not a token that was sent: {token}"))
            });
            let asked = number.map(|number: usize| world.ask(number, &attempt));
            async move {
                let Some(number) = number else {
                    return Err(if lets_in { Refusal::AwaitAuth } else { Refusal::Unauthorized });
                };
                if let Some(Some(pause)) = asked {
                    sleep(pause).await;
                }
                match world.with_credential(number, |credential| credential.ruling.clone()) {
                    Ruling::Never => std::future::pending().await,
                    Ruling::Panic | Ruling::PanicLater => panic!("asked to panic"),
                    Ruling::Refuse(refusal) => world.decide(number, Some(refusal)),
                    Ruling::LetIn => {
                        let user = world.with_credential(number, |credential| credential.user);
                        let is_suspended = world.suspended.lock().unwrap().contains(&user);
                        world.decide(number, is_suspended.then(|| Refusal::forbidden("suspended")))
                    }
                }
            }
        });
    }

    /// The authenticator is asked about a credential. Returns how long it waits.
    fn ask(&self, number: usize, attempt: &Attempt) -> Option<Duration> {
        let (ruling, pause) = self.with_credential(number, |credential| {
            assert!(!std::mem::replace(&mut credential.is_asked, true), "asked twice about {number}");
            assert_eq!(attempt.payload().is_some(), credential.is_renewal, "the payload of an attempt");
            if let Some(user) = credential.known {
                let known = attempt.identity().map(|identity| identity.id().to_owned());
                assert_eq!(known, Some(identity_of(user)), "who it is until now");
            }
            assert!(credential.is_renewal || attempt.identity().is_none(), "an identity before the upgrade");
            (credential.ruling.clone(), credential.pause)
        });
        if ruling == Ruling::Panic {
            panic!("asked to panic");
        }
        pause
    }

    fn decide(&self, number: usize, refusal: Option<Refusal>) -> Result<Identity, Refusal> {
        let valid = self.with_credential(number, |credential| {
            credential.decision = Some(Decision { refusal: refusal.clone(), at: Instant::now() });
            (credential.user, credential.valid)
        });
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let identity = Identity::new(identity_of(valid.0)).data(Granted { credential: number });
        Ok(match valid.1 {
            Some(valid) => identity.expires_at_unix_ms(unix_ms() + valid.as_millis() as u64),
            None => identity,
        })
    }

    /// The earliest and the latest time at which a credential that was accepted expires.
    pub fn expiry(&self, number: usize) -> Option<(Instant, Instant)> {
        let drift = self.drift();
        self.with_credential(number, |credential| {
            let at = credential.decision.as_ref().expect("it was decided about").at + credential.valid?;
            Some((at.checked_sub(drift).unwrap_or(at), at + drift + SLACK))
        })
    }

    /// Whether a response to a credential, by its error code and message, is what the authenticator has decided.
    /// `identity` is that of the connection until now. Returns whether the connection has the credential now.
    pub fn is_answered(&self, number: usize, identity: Option<u64>, code: &str, message: &str) -> bool {
        self.with_credential(number, |credential| {
            let Some(decision) = &credential.decision else {
                match code {
                    "TIMEOUT" => assert!(credential.is_late(self.patience), "{number} was not waited for"),
                    "HANDLER_ERROR" => assert!(credential.has_panicked(), "no panic: {message}"),
                    "RATE_LIMITED" => assert!(!credential.is_asked, "asked about what was refused"),
                    _ => panic!("{number} was not decided about: {code} {message}"),
                }
                return false;
            };
            let other = identity.is_some_and(|known| known != credential.user);
            match (&decision.refusal, code) {
                (None, "") => assert!(!other, "{number} is of another identity"),
                (None, "UNAUTHORIZED") if message == "credential expired" => {
                    assert!(credential.valid.is_some_and(|valid| valid <= self.drift()), "it is valid");
                }
                (None, "UNAUTHORIZED") => {
                    assert!(other && message == "the credential is of another identity", "{message}");
                }
                (Some(refusal), "UNAUTHORIZED") => assert_eq!(message, refusal.reason()),
                _ => panic!("{number}: {code} {message} for {:?}", decision.refusal),
            }
            code.is_empty()
        })
    }

    /// Checks the answer to an upgrade, by its status and its body, and how a client of `switchboard.v1` is closed.
    pub fn is_refused(&self, number: Option<usize>, status: u16, reason: &str) {
        let Some(number) = number else {
            let is_right = self.access == Access::Users { lets_in: false } && status == 401;
            return assert!(is_right && reason == "unauthorized", "{status} {reason} without a credential");
        };
        self.with_credential(number, |credential| match (&credential.decision, status) {
            (None, 503) => assert!(credential.is_late(self.patience), "{number} was not waited for"),
            (None, 500) => assert!(credential.has_panicked()),
            (Some(Decision { refusal: Some(refusal), .. }), 401 | 403) => {
                assert_eq!((refusal.is_forbidden(), refusal.reason()), (status == 403, reason));
            }
            (Some(Decision { refusal: None, .. }), 401) => {
                assert!(credential.valid.is_some_and(|valid| valid <= self.drift()), "it is valid");
                assert_eq!(reason, "credential expired");
            }
            (decision, _) => panic!("{number}: {status} {reason} for {decision:?}"),
        });
    }

    /// The identity of a request, whose credential has not expired.
    pub(super) fn identify(&self, cx: &RequestContext) -> Option<(u64, usize)> {
        let Access::Users { .. } = self.access else {
            assert!(cx.identity().is_none(), "an identity without an authenticator");
            return None;
        };
        let identity = cx.identity().expect("only clients that were let in make requests");
        let number = cx.data::<Granted>().expect("the data of the identity").credential;
        let user = self.with_credential(number, |credential| credential.user);
        assert_eq!(identity.id(), identity_of(user));
        if let Some((_, latest)) = self.expiry(number) {
            assert!(Instant::now() <= latest, "{}: a request after its credential has expired", cx.client_id);
        }
        Some((user, number))
    }

    /// Refuses a user for some time, or lets it in again.
    pub fn suspend(&self, user: u64, is_suspended: bool) {
        let mut suspended = self.suspended.lock().unwrap();
        suspended.retain(|other| *other != user);
        if is_suspended {
            suspended.push(user);
        }
    }

    /// Checks a response on the channel that has a limit of its own, by a naive count of its uses.
    pub fn check_quota(&self, client: Option<ClientId>, request: Uuid, is_refused: bool) {
        let key = (client.expect("it is connected"), request.to_string());
        let verdict = self.quota.verdicts.lock().unwrap().remove(&key);
        assert_eq!(verdict, Some(is_refused), "the limit of a user, for {request}");
    }

    /// Whether a credential had expired at a time of the world, in ms.
    pub fn has_expired(&self, number: Option<usize>, at_ms: u64) -> bool {
        let expiry = number.and_then(|number| self.expiry(number));
        expiry.is_some_and(|(_, latest)| self.started + Duration::from_millis(at_ms) > latest)
    }

    /// A credential is announced to a client, for the time that is left.
    pub fn check_notice(&self, number: usize, in_ms: u64) {
        let valid = self.with_credential(number, |credential| credential.valid).expect("it expires");
        let most = self.limits.expiry_notice.min(valid / 2) + self.drift();
        assert!(Duration::from_millis(in_ms) <= most, "announced {in_ms} ms before");
        let (earliest, _) = self.expiry(number).expect("it expires");
        assert!(Instant::now() + Duration::from_millis(in_ms) + SLACK >= earliest, "announced too early");
    }

    /// A connection is closed because a credential has expired.
    pub fn check_expired(&self, number: usize) {
        let (earliest, _) = self.expiry(number).expect("it expires");
        assert!(Instant::now() >= earliest, "closed before its credential has expired");
    }
}

/// A naive count of the uses of a channel, by who uses it.
pub struct Quota {
    pub max: u32,
    pub window: Duration,
    /// When the window opened, and the uses in it.
    used: Mutex<HashMap<String, (u64, u32)>>,
    /// Whether each request is to be refused.
    verdicts: Mutex<HashMap<(ClientId, String), bool>>,
}

impl Quota {
    pub(super) fn new(rng: &mut Rng) -> Quota {
        let window = Duration::from_millis(rng.between(50, 1000));
        Quota { max: rng.below(4) as u32, window, used: Mutex::default(), verdicts: Mutex::default() }
    }

    pub(super) fn note(&self, key: String, request: (ClientId, String), now_ms: u64) {
        let mut used = self.used.lock().unwrap();
        let (opened, count) = used.entry(key).or_insert((now_ms, 0));
        if now_ms >= *opened + self.window.as_millis() as u64 {
            (*opened, *count) = (now_ms, 0);
        }
        let is_refused = *count >= self.max;
        *count += u32::from(!is_refused);
        self.verdicts.lock().unwrap().insert(request, is_refused);
    }
}

pub fn identity_of(user: u64) -> String {
    format!("user:{user}")
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}
