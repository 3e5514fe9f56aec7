//! The shim's end of the control socket.
//!
//! Job: a few clients at a time, bounded lines in and bounded queues out, all without waiting.
//! Owns: the listener and the connections. Never: lets a client of another user in, or waits for a slow one.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use crate::control::{Event, Request, decode, encode};
use crate::limits;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    greeted: bool,
    watching: bool,
    gone: bool,
    /// To be closed when the outbox is empty.
    leaving: bool,
    /// A `grew` waits until the outbox is empty.
    owed_grew: bool,
}

#[derive(Debug)]
pub(super) struct Clients {
    listener: UnixListener,
    list: Vec<Client>,
    grew_at: Option<Instant>,
    grew_due: Option<Instant>,
}

impl Clients {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, list: Vec::new(), grew_at: None, grew_due: None }
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The connections to poll, each with whether it has bytes to send.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.list.iter().map(|client| (client.stream.as_fd(), !client.outbox.is_empty()))
    }

    /// When a held back `grew` is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.grew_due
    }

    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let own = rustix::process::geteuid();
            let same_user = rustix::net::sockopt::socket_peercred(&stream).is_ok_and(|peer| peer.uid == own);
            if !same_user || self.list.len() >= limits::CONTROL_CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.list.push(Client {
                stream,
                inbox: Vec::new(),
                outbox: Vec::new(),
                greeted: false,
                watching: false,
                gone: false,
                leaving: false,
                owed_grew: false,
            });
        }
    }

    /// Reads what a client sent; the requests are whole and, but for the first, follow its hello.
    pub(super) fn read(&mut self, index: usize) -> Vec<Request> {
        let mut requests = Vec::new();
        let Some(client) = self.list.get_mut(index) else {
            return requests;
        };
        let mut piece = [0; limits::CONTROL_LINE_BYTES_MAX];
        match client.stream.read(&mut piece) {
            Ok(0) => client.gone = true,
            Ok(read) => client.inbox.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => client.gone = true,
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &client.inbox) {
            match decode::<Request>(&client.inbox[start..end]) {
                Ok(request) if client.greeted != matches!(request, Request::Hello { .. }) => {
                    client.greeted = true;
                    requests.push(request);
                }
                // Not a request, or out of turn: what follows cannot be trusted.
                _ => client.gone = true,
            }
            start = end + 1;
        }
        client.inbox.drain(..start);
        client.gone |= client.inbox.len() > limits::CONTROL_LINE_BYTES_MAX;
        requests
    }

    pub(super) fn watch(&mut self, index: usize) {
        if let Some(client) = self.list.get_mut(index) {
            client.watching = true;
        }
    }

    /// Queues an answer.
    pub(super) fn push(&mut self, index: usize, event: &Event) {
        if let Some(client) = self.list.get_mut(index) {
            client.push(&encode(event));
        }
    }

    /// Closes a connection when its queue is sent.
    pub(super) fn dismiss(&mut self, index: usize) {
        if let Some(client) = self.list.get_mut(index) {
            client.leaving = true;
        }
    }

    /// Queues an event for all who watch.
    pub(super) fn tell(&mut self, event: &Event) {
        let line = encode(event);
        for client in self.list.iter_mut().filter(|client| client.watching) {
            client.push(&line);
        }
    }

    /// Tells all who watch the last there is to tell, which includes any growth held back.
    pub(super) fn farewell(&mut self, now: Instant) {
        self.grew_due = None;
        for client in &mut self.list {
            client.owed_grew = false;
        }
        self.tell(&Event::Exit);
        self.flush(now);
    }

    /// The spool has grown: says so now, or soon if it was said just before.
    pub(super) fn grew(&mut self, now: Instant) {
        if self.grew_due.is_none() && self.list.iter().any(|client| client.watching) {
            self.grew_due = Some(self.grew_at.map_or(now, |at| now.max(at + limits::GREW_EVERY)));
        }
    }

    /// Sends what is due without waiting, and forgets who is gone.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.grew_due.is_some_and(|due| due <= now) {
            self.grew_due = None;
            self.grew_at = Some(now);
            for client in &mut self.list {
                client.owed_grew = client.watching;
            }
        }
        for client in &mut self.list {
            client.flush();
        }
        self.list.retain(|client| !client.gone);
    }
}

impl Client {
    fn push(&mut self, line: &[u8]) {
        self.outbox.extend_from_slice(line);
        self.gone |= self.outbox.len() > limits::CONTROL_QUEUE_BYTES_MAX;
    }

    fn flush(&mut self) {
        self.send();
        if self.owed_grew && self.outbox.is_empty() {
            self.owed_grew = false;
            self.push(&encode(&Event::Grew));
            self.send();
        }
        self.gone |= self.leaving && self.outbox.is_empty();
    }

    fn send(&mut self) {
        while !self.outbox.is_empty() && !self.gone {
            match self.stream.write(&self.outbox) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
    }
}
