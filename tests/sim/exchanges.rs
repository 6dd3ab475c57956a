//! The exchanges of a node: requests become drivers, and what a driver wants is carried out.

use holdfast_engine::replicated::Body;

use crate::client::Call;
use crate::driver::Exchange;
use crate::node::{Message, Purpose, Running};
use crate::ports::{Effect, Input, View};
use crate::world::{BALANCER, Event, FAULTS_END, Request, Said, World};

impl World {
    pub(crate) fn arrive(&mut self, at: usize, attempt: usize) {
        if !self.nodes[at].joined {
            return self.nodes[at].unread.push(attempt);
        }
        let Some((call, post, first, live)) =
            self.attempts.get(attempt).map(|it| (it.call, it.post, it.first, it.live))
        else {
            return;
        };
        self.trace("arrives", call as u64, at as u64);
        let call = &self.calls[call];
        let Call { key, class, by_balancer, .. } = *call;
        // Some have to wait for their turn, for a drain say.
        let waits = self.now < FAULTS_END && self.rng.percent(10);
        let turn = self.now + if waits { self.rng.between(50, 4_000) } else { 0 };
        let exchange = Exchange::new(key, class, by_balancer, post, first, self.now, turn);
        // Every attempt is one exchange, so its number names both.
        let id = attempt as u64;
        self.nodes[at].exchanges.insert(id, Running { attempt, exchange });
        if !live {
            // The end of the connection is right behind the request.
            self.after(0, Event::Node(at, self.nodes[at].process, Message::Gone(attempt)));
        }
        self.drive(at, id, Input::Arrived);
    }

    pub(crate) fn drive(&mut self, at: usize, id: u64, input: Input) {
        let (now, instant, bug) = (self.now, self.instant(at), self.bug);
        let node = &mut self.nodes[at];
        let view = View {
            now,
            me: node.origin,
            joined: node.joined,
            lease: node.holder.holds(instant),
            machine: &node.machine,
            bug,
        };
        let Some(running) = node.exchanges.get_mut(&id) else { return };
        let attempt = running.attempt;
        for effect in running.exchange.on(&view, input) {
            self.carry_out(at, id, attempt, effect);
        }
    }

    fn carry_out(&mut self, at: usize, id: u64, attempt: usize, effect: Effect) {
        let call = self.attempts[attempt].call;
        let request = |attempt, resume| Request {
            call,
            node: at,
            process: self.nodes[at].process,
            exchange: id,
            attempt,
            resume,
        };
        match effect {
            Effect::Propose(origin, command) => {
                self.propose(at, origin, Body::Kv(command), Purpose::Exchange(id));
            }
            Effect::Send(number) => {
                let request = request(number, None);
                self.trace("sends", call as u64, at as u64);
                if let Some(running) = self.nodes[at].exchanges.get(&id) {
                    let (owner, revision) = (running.exchange.owner, running.exchange.revision);
                    self.check_sending(call, owner, revision);
                }
                self.send_to_server(request);
            }
            Effect::Resume(number, token) => {
                let request = request(number, Some(token));
                self.trace("resumes", call as u64, token);
                self.send_to_server(request);
            }
            Effect::Reestablish => {
                self.note("sessions re-established");
                self.after(20, Event::Node(at, self.nodes[at].process, Message::Reestablished(id)));
            }
            Effect::Commit => {
                self.send_patiently(at, BALANCER, Event::Client(attempt, Said::Headers));
            }
            Effect::Answer(answer) => {
                self.attempts[attempt].answers += 1;
                self.check_attempt(attempt);
                self.send_patiently(at, BALANCER, Event::Client(attempt, Said::Answer(answer)));
            }
            Effect::Close => {
                self.nodes[at].exchanges.remove(&id);
            }
            Effect::Note(what) => {
                if what == "ran anew" {
                    self.calls[call].anew += 1;
                }
                self.note(what);
            }
        }
    }
}
