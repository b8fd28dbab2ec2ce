//! Breaking a local cluster: `kill -9` of a server, an agent or all that a host runs.

use anyhow::{Context, Result};

use super::cluster::{LocalCluster, LocalNode};
use super::processes;
use super::stamp::Stamp;

impl LocalCluster {
    /// Kills the postmaster alone; its children notice and end by themselves.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_postmaster(&mut self, node: usize) -> Result<Stamp> {
        let pid = postmaster(self.node(node)?)?;
        let killed = Stamp::now();
        processes::kill_all(&[pid]);
        Ok(killed)
    }

    /// Kills the postmaster and all its children.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_server(&mut self, node: usize) -> Result<Stamp> {
        let server = server(self.node(node)?)?;
        let killed = Stamp::now();
        processes::kill_all(&server);
        Ok(killed)
    }

    /// Kills the agent alone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_agent(&mut self, node: usize) -> Result<Stamp> {
        self.kill_with_agent(node, &[])
    }

    /// Kills all that a host runs, as nearly at once as one can: agent, guard, postmaster and its children.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn kill_host(&mut self, node: usize) -> Result<Stamp> {
        let victim = self.node(node)?;
        let mut all = server(victim)?;
        all.push(victim.guard().with_context(|| format!("the guard of {} does not run", victim.place.name))?);
        self.kill_with_agent(node, &all)
    }

    fn kill_with_agent(&mut self, node: usize, others: &[i32]) -> Result<Stamp> {
        let node = self.node(node)?;
        let mut agent =
            node.child.take().with_context(|| format!("the agent of {} does not run", node.place.name))?;
        let killed = Stamp::now();
        let sent = agent.kill();
        processes::kill_all(others);
        let _ = agent.wait();
        sent.with_context(|| format!("the agent of {} cannot be killed", node.place.name))?;
        Ok(killed)
    }

    fn node(&mut self, node: usize) -> Result<&mut LocalNode> {
        self.nodes.get_mut(node).context("there is no such node")
    }
}

fn postmaster(node: &LocalNode) -> Result<i32> {
    node.postmaster().with_context(|| format!("the server of {} does not run", node.place.name))
}

fn server(node: &LocalNode) -> Result<Vec<i32>> {
    let postmaster = postmaster(node)?;
    let mut pids = vec![postmaster];
    pids.extend(processes::descendants(postmaster, &processes::all()));
    Ok(pids)
}
