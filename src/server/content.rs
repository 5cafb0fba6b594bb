//! The body of a response (feature `pages`). Input: bytes, or a file. Output: pieces of them, as the client takes them.

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::admission::Place;

/// How much of a page is handed to the socket at once.
const FRAME_BYTES: usize = 64 << 10;

/// The body of a response. It is sent piece by piece, and each piece is freed once it is sent.
#[derive(Debug, Default)]
pub struct Content {
    rest: Rest,
    /// A piece of the file that is being read.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// Its place among the pages, in the embedder's own hyper server. In this server the connection has it.
    place: Option<Place<Notify>>,
}

/// What is still to be sent.
#[derive(Debug, Clone)]
pub(super) enum Rest {
    Bytes(Bytes),
    /// Bytes of a file, from one position to another. Clones share the file, and each looks for its own position.
    File {
        file: Arc<Mutex<File>>,
        from: u64,
        to: u64,
    },
}

impl Rest {
    pub(super) fn file(file: File, length: u64) -> Rest {
        Rest::File { file: Arc::new(Mutex::new(file)), from: 0, to: length }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Rest::Bytes(bytes) => bytes.len() as u64,
            Rest::File { from, to, .. } => to - from,
        }
    }
}

impl Default for Rest {
    fn default() -> Rest {
        Rest::Bytes(Bytes::new())
    }
}

impl From<Rest> for Content {
    fn from(rest: Rest) -> Content {
        Content { rest, ..Content::default() }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content::from(Rest::Bytes(text.into()))
    }
}

impl Content {
    /// Keeps a place among the pages until the content is sent. If the place is lost, the rest is not sent.
    pub(super) fn hold(&mut self, place: Option<Place<Notify>>) {
        self.place = place;
    }

    /// Reads the next piece of the file, on a thread that may block.
    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Rest::File { file, from, to } = &mut self.rest else { return Poll::Ready(None) };
        let length = (*to - *from).min(FRAME_BYTES as u64);
        if length == 0 {
            return Poll::Ready(None);
        }
        let reading = self.reading.get_or_insert_with(|| {
            let (file, from) = (file.clone(), *from);
            tokio::task::spawn_blocking(move || read(&file, from, length))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        // With a length that was promised and is not reached, hyper cuts the connection.
        let Ok(Ok(piece)) = read else { return Poll::Ready(None) };
        *from += piece.len() as u64;
        Poll::Ready((!piece.is_empty()).then(|| piece.into()))
    }
}

fn read(file: &Mutex<File>, from: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(from))?;
    let mut piece = Vec::new();
    Read::by_ref(&mut *file).take(length).read_to_end(&mut piece)?;
    Ok(piece)
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.place.as_ref().is_some_and(Place::is_lost) {
            return Poll::Ready(None);
        }
        let piece = match &mut self.rest {
            Rest::Bytes(rest) if rest.is_empty() => None,
            Rest::Bytes(rest) => {
                let length = rest.len().min(FRAME_BYTES);
                Some(rest.split_to(length))
            }
            Rest::File { .. } => ready!(self.poll_file(cx)),
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.length())
    }
}
