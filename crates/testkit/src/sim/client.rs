//! A client at every node: it writes whenever the server there takes writes, whatever the cluster thinks of it.

use super::node::NodeId;
use super::postgres::{Process, Waiting};
use super::world::{Event, World};

impl World {
    /// One commit, if the server takes it; and the next one later.
    pub fn client_writes(&mut self, node: NodeId) {
        let pause = self.random.ms(15, 90);
        self.after(pause, Event::Write { node });
        let host = &self.nodes[node];
        if !host.server_runs()
            || host.postgres.hung_since.is_some()
            || host.postgres.process != Process::Primary
        {
            return;
        }
        self.keep_deadline(node);
        let id = self.number();
        let bytes = self.random.between(40, 300);
        let postgres = &mut self.nodes[node].postgres;
        let Some(data) = postgres.data.as_mut().filter(|_| postgres.process == Process::Primary) else {
            return;
        };
        data.write(id, bytes);
        let lsn = data.lsn();
        postgres.waiting.push_back(Waiting { id, lsn });
        let commits_wait = postgres.commits_wait;
        self.push_wal(node);
        if !commits_wait {
            self.release_all(node);
        }
    }
}
