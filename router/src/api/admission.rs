//! Which requests are still being answered, and whether new ones are let in: what a drain goes by.
//!
//! A request counts from its headers to the end of its body, so one that is still being sent or tokenized
//! when the server stops is served. Probes and metrics do not count. Used by `passage`; `server` closes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Method;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, Default)]
struct Doors {
    closed: bool,
    n_inside: usize,
}

/// Counts requests, and lets none in once it is closed.
#[derive(Debug, Clone, Default)]
pub struct Admission(watch::Sender<Doors>);

/// A request that is being answered; it ends when this is dropped.
#[derive(Debug)]
pub struct Inside(Admission);

/// The server is stopping.
#[derive(Debug)]
pub struct Closed;

impl Admission {
    /// Counts a request that asks for work: a POST.
    ///
    /// # Errors
    /// When it comes too late.
    pub fn admit(&self, method: &Method) -> Result<Option<Inside>, Closed> {
        if method != Method::POST {
            return Ok(None);
        }
        self.enter().map(Some).ok_or(Closed)
    }

    fn enter(&self) -> Option<Inside> {
        let mut entered = false;
        self.0.send_if_modified(|doors| {
            entered = !doors.closed;
            doors.n_inside += usize::from(entered);
            false // nobody waits for an entry
        });
        entered.then(|| Inside(self.clone()))
    }

    /// From now on new requests get 503.
    pub fn close(&self) {
        self.0.send_modify(|doors| doors.closed = true);
    }

    pub fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    /// Waits until every request that was let in has its answer.
    pub async fn emptied(&self) {
        let _ = self.0.subscribe().wait_for(|doors| doors.n_inside == 0).await; // we hold a sender
    }
}

impl Inside {
    /// Counts the request until the body of its answer is sent or given up.
    pub fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(Counted { body, _inside: self }))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|doors| {
            doors.n_inside -= 1;
            doors.closed && doors.n_inside == 0
        });
    }
}

/// A response's body, which keeps its request counted.
struct Counted {
    body: Body,
    _inside: Inside,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_inside_finish_and_nobody_enters() {
        let admission = Admission::default();
        admission.emptied().await;
        let (first, second) = (admission.enter(), admission.enter());
        assert!(first.is_some() && second.is_some());
        admission.close();
        assert!(admission.is_closed() && admission.enter().is_none());
        let emptied = tokio::spawn({
            let admission = admission.clone();
            async move { admission.emptied().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!emptied.is_finished());
        drop(second);
        emptied.await.unwrap();
    }
}
