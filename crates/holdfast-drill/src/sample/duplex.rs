//! One connection that is a session: stdio, WebSocket, HTTP+SSE. Messages of both eras travel on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::{exit, id_text, responses, run, scripted_error, spawn};
use super::behaviour::{Fault, Strike};
use super::call::{Call, Era, Outlet};
use super::hub::{Filter, Registration};
use super::message::{Failure, Incoming, Kind, Message};
use super::record::Recorded;
use super::session::Session;
use super::stream::Stream;
use super::{Sample, legacy, modern};

#[derive(Debug)]
pub(super) struct Duplex {
    sample: Arc<Sample>,
    pub(super) session: Arc<Session>,
    /// What goes to the client; its end is the end of the connection.
    pub(super) out: Arc<Stream>,
    transport: &'static str,
    connection: u64,
    _registration: Registration,
}

impl Duplex {
    pub(super) fn open(
        sample: &Arc<Sample>,
        transport: &'static str,
        connection: u64,
    ) -> Arc<Self> {
        let out = Stream::new(false);
        let session = Session::over_connection(out.clone());
        let registration = sample.hub.connect(session.clone());
        Arc::new(Self {
            sample: sample.clone(),
            session,
            out,
            transport,
            connection,
            _registration: registration,
        })
    }

    /// Takes what came in one frame, line or POST; answers go to `out`.
    pub(super) fn receive(self: &Arc<Self>, body: &Bytes) {
        self.sample.recorder.add(Recorded {
            transport: self.transport,
            connection: self.connection,
            method: String::new(),
            path: String::new(),
            head: Bytes::new(),
            body: body.clone(),
        });
        match Incoming::parse(body) {
            Err(refused) => self.out.push(refused.render("null"), true),
            Ok(Incoming::One(message)) => self.take(message),
            Ok(Incoming::Batch(messages)) => self.take_batch(messages),
        }
    }

    /// The client has gone: what runs for it ends.
    pub(super) fn close(&self) {
        self.out.end();
        self.session.cancel_all();
    }

    fn take(self: &Arc<Self>, message: Message) {
        if message.kind() != Kind::Request {
            return legacy::take(&self.sample, &self.session, message);
        }
        let id = id_text(message.id.as_ref()).to_owned();
        let duplex = self.clone();
        let strike = self.sample.behaviour.strike(&message);
        let task = tokio::spawn(async move { duplex.answer(message, strike).await });
        self.session.add_call(&id, task.abort_handle());
    }

    fn take_batch(self: &Arc<Self>, messages: Vec<Message>) {
        if self.session.version() != Some("2025-03-26") {
            let refused = Failure::invalid_request("batches belong to 2025-03-26");
            return self.out.push(refused.render("null"), true);
        }
        let (requests, others): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|message| message.kind() == Kind::Request);
        for message in others {
            legacy::take(&self.sample, &self.session, message);
        }
        if requests.is_empty() {
            return;
        }
        let duplex = self.clone();
        tokio::spawn(async move {
            let mut texts = Vec::new();
            for message in requests {
                let call = duplex.call(&message, Era::Legacy(duplex.session.clone()), &duplex.out);
                let outcome = run(&call, message.method()).await;
                texts.extend(responses(&call.id, &outcome, None));
            }
            duplex.out.push(format!("[{}]", texts.join(",")), true);
        });
    }

    async fn answer(&self, message: Message, strike: Option<Strike>) {
        let id = id_text(message.id.as_ref()).to_owned();
        if let Some(strike) = &strike {
            if let Fault::Delay { ms } = strike.fault {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            if strike.fault.replaces_answer() {
                if strike.execute {
                    self.execute(&message, None).await;
                }
                return self.replace(&strike.fault, &id).await;
            }
        }
        self.execute(&message, strike.map(|strike| strike.fault)).await;
    }

    async fn execute(&self, message: &Message, fault: Option<Fault>) {
        let method = message.method().to_owned();
        let era = if modern::is_modern(None, message) && self.sample.options.serves_modern() {
            if let Err(refused) = modern::check(None, message) {
                return self.out.push(refused.render(id_text(message.id.as_ref())), true);
            }
            if method == "subscriptions/listen" {
                let filter = Filter::parse(&message.params["notifications"]);
                let id = id_text(message.id.as_ref());
                let _registration = self.sample.hub.listen(id, filter, self.out.clone());
                return std::future::pending().await;
            }
            Era::Modern
        } else {
            Era::Legacy(self.session.clone())
        };
        let stream = Stream::new(false);
        let call = self.call(message, era, &stream);
        let task = spawn(call, method, &stream, fault.clone(), |_| {});
        // The caller's task is the one that a cancellation aborts; the call goes with it.
        let _abort = AbortOnDrop(task);
        self.relay(&stream, fault.as_ref()).await;
    }

    /// Passes a call's messages on until it is done or a fault cuts the connection.
    async fn relay(&self, stream: &Stream, fault: Option<&Fault>) {
        let (limit, code) = match fault {
            Some(Fault::ResetAfterHeaders) => (0, None),
            Some(Fault::ResetAfterEvents { events } | Fault::CloseAfterEvents { events }) => {
                (*events, None)
            }
            Some(Fault::ExitAfterEvents { events, code }) => (*events, Some(*code)),
            _ => (usize::MAX, None),
        };
        let (mut position, mut passed) = (0, 0);
        while passed < limit {
            let Some(item) = stream.next(position).await else { return };
            if item.last && fault == Some(&Fault::HalfBody) {
                // Half of the bytes, but no half character.
                let half =
                    (0..=item.text.len() / 2).rev().find(|at| item.text.is_char_boundary(*at));
                self.out.push(&item.text[..half.unwrap_or(0)], true);
                return self.out.end();
            }
            self.out.push(item.text, item.last);
            (position, passed) = (item.position, passed + 1);
        }
        match code {
            Some(code) => exit(code),
            None => self.out.end(),
        }
    }

    async fn replace(&self, fault: &Fault, id: &str) {
        match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Reset | Fault::Close => self.out.end(),
            Fault::Exit { code } => exit(*code),
            Fault::ForgetSession => {
                self.session.state().version = None;
                let refused = Failure::invalid_request("Server not initialized");
                self.out.push(refused.render(id), true);
            }
            Fault::Garbage { body } => {
                let body = body.as_deref().unwrap_or("<html>no JSON here</html>");
                self.out.push(body, true);
            }
            _ => {
                if let Some(error) = scripted_error(fault, id) {
                    self.out.push(error, true);
                }
            }
        }
    }

    fn call(&self, message: &Message, era: Era, stream: &Arc<Stream>) -> Call {
        Call {
            sample: self.sample.clone(),
            era,
            id: id_text(message.id.as_ref()).to_owned(),
            params: message.params.clone(),
            outlet: Outlet::Stream(stream.clone()),
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
