//! What can happen to a host of the lab, and how it comes back.

use anyhow::{Context, Result};
use pgkeel::demo::stamp::Stamp;
use rustix::process::Signal;

use super::network::{Network, signal_all};
use super::{Lab, SHORT_LIMIT};

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its host loses power: the link is dead, and all its processes end at once without a word.
    PowerOff,
    /// Its postmaster is killed.
    PostmasterKilled,
    /// Its cable is pulled: all its processes live on.
    LinkCut,
}

impl Lab {
    /// The network of a lab with hosts.
    ///
    /// # Errors
    /// When the lab has none.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("this lab has no network of its own")
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// When the node does not run what is to be broken.
    pub fn strike(&mut self, node: usize, fault: Fault) -> Result<Stamp> {
        let at = Stamp::now();
        match fault {
            Fault::PowerOff => {
                // First the link: a dead host closes no connection.
                self.network()?.cut(node)?;
                signal_all(self.network()?, node, Signal::KILL)?;
                // It is dead already; this notes that it is not meant to run.
                self.cluster.kill_agent(node)?;
            }
            Fault::PostmasterKilled => _ = self.cluster.kill_postmaster(node)?,
            Fault::LinkCut => self.network()?.cut(node)?,
        }
        Ok(at)
    }

    /// The host comes back. After a killed postmaster there is nothing to do: its agent is there.
    ///
    /// # Errors
    /// When the agent cannot be started.
    pub fn repair(&mut self, node: usize, fault: Fault) -> Result<()> {
        match fault {
            Fault::PowerOff => {
                self.network()?.restore(node)?;
                self.cluster.start_node(node)
            }
            Fault::PostmasterKilled => Ok(()),
            Fault::LinkCut => self.network()?.restore(node),
        }
    }

    /// Stops every process of a host where it is, agent, guard and server; how many.
    ///
    /// # Errors
    /// When the lab has no hosts.
    pub fn freeze(&self, node: usize) -> Result<usize> {
        signal_all(self.network()?, node, Signal::STOP)
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// When the lab has no hosts.
    pub fn thaw(&self, node: usize) -> Result<usize> {
        signal_all(self.network()?, node, Signal::CONT)
    }

    /// Waits until a node that is meant to come back by itself runs another postmaster than `old`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn new_postmaster(&mut self, node: usize, old: Option<i32>) -> Result<i32> {
        let began = Stamp::now();
        loop {
            self.cluster.refuse_ended()?;
            match self.node(node)?.postmaster() {
                Some(pid) if Some(pid) != old => return Ok(pid),
                _ if began.instant.elapsed() > SHORT_LIMIT => {
                    anyhow::bail!("{} starts no server again", self.node(node)?.place.name)
                }
                _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    }
}
