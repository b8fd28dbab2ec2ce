//! An etcd of several members on this host, for clusters that keep their record in one. It ends with the test.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use pgkeel::demo::cluster::LocalCluster;
use pgkeel::demo::ports::{self, Claim};
use tokio::time::sleep;

use super::Lab;

/// One member.
#[derive(Debug)]
struct Member {
    arguments: Vec<String>,
    url: String,
    child: Option<Child>,
}

/// The processes.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    _claims: Vec<Claim>,
}

/// Whether the program is installed.
#[must_use]
pub fn is_installed() -> bool {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok()
}

impl Etcd {
    /// Starts so many members, with etcd's own default time-outs, and lets all nodes of the lab keep their record there.
    /// Before anything of the lab is started.
    ///
    /// # Errors
    /// When it cannot be started, or a configuration file cannot be written.
    pub async fn start_for(lab: &Lab, count: usize) -> Result<Etcd> {
        let etcd = Etcd::start_at("127.0.0.1", &lab.cluster, count)?;
        // Agents wait for it by themselves.
        sleep(std::time::Duration::from_millis(100)).await;
        Ok(etcd)
    }

    /// The same at this address, for a cluster that is written and not started.
    ///
    /// # Errors
    /// As [`Etcd::start_for`].
    pub fn start_at(address: &str, cluster: &LocalCluster, count: usize) -> Result<Etcd> {
        let etcd = Etcd::start_beside(address, cluster, count)?;
        let urls: Vec<String> = etcd.urls().iter().map(|url| format!("{url:?}")).collect();
        for node in &cluster.nodes {
            let text = fs::read_to_string(&node.place.config)?;
            fs::write(&node.place.config, format!("{text}\n[store]\netcd = [{}]\n", urls.join(", ")))?;
        }
        Ok(etcd)
    }

    /// The client addresses of all members.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    /// Starts members that no configuration file knows of.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start_beside(address: &str, cluster: &LocalCluster, count: usize) -> Result<Etcd> {
        let claims = ports::claim(2 * count)?;
        let url = |i: usize| claims.get(i).map(|c| format!("http://{address}:{}", c.port)).context("a port");
        let all = (0..count).map(|i| Ok(format!("m{i}={}", url(count + i)?))).collect::<Result<Vec<_>>>()?;
        let root = &cluster.options.root;
        let mut members = Vec::new();
        for i in 0..count {
            let (client, peer) = (url(i)?, url(count + i)?);
            let data = root.join(format!("etcd{i}")).display().to_string();
            let flags = [
                ("name", format!("m{i}")),
                ("data-dir", data),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client.clone()),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("initial-cluster", all.join(",")),
                ("log-level", "error".to_owned()),
            ];
            let arguments = flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
            members.push(Member { arguments, url: client, child: None });
        }
        let mut etcd = Etcd { members, _claims: claims };
        (0..count).try_for_each(|i| etcd.revive(i))?;
        Ok(etcd)
    }

    /// Kills one member.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, i: usize) -> Result<()> {
        let mut child = self.members[i].child.take().context("this member of etcd does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts one member.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn revive(&mut self, i: usize) -> Result<()> {
        let member = &mut self.members[i];
        ensure!(member.child.is_none(), "this member of etcd runs");

        let child = Command::new("etcd")
            .args(&member.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        member.child = Some(child);
        Ok(())
    }

    /// The member that leads etcd itself; `None`: none does.
    pub async fn leader(&self) -> Option<usize> {
        for (i, member) in self.members.iter().enumerate().filter(|(_, m)| m.child.is_some()) {
            let address = member.url.trim_start_matches("http://");
            let caller = identity::Caller::plain();
            let nothing = serde_json::json!({});
            let path = "/v3/maintenance/status";
            let asked = agent::http::post_json::<_, serde_json::Value>(
                &caller,
                address,
                path,
                &nothing,
                super::SHORT_LIMIT,
            );
            let Ok(status) = asked.await else { continue };
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return Some(i);
            }
        }
        None
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|m| m.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
