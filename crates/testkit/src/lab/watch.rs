//! All that watches a lab's cluster while something happens to it: the survey's client, a patient one, the load and the
//! witness.

use std::time::Duration;

use anyhow::{Result, ensure};
use pgkeel::demo::stamp::Stamp;
use pgkeel::demo::writer::Writer;
use tokio::sync::OwnedMutexGuard;

use super::loss::{self, Claims, Kept};
use super::survey::{Lines, NOT_CONNECTED, Survey};
use super::witness::{Way, Witness};
use super::{Lab, SHORT_LIMIT};

/// The watchers, at work.
#[derive(Debug)]
pub struct Watch {
    /// Once a second a new connection, which must be there within a second.
    pub survey: Survey,
    /// Four times a second a new connection, which may wait for a primary.
    pub patient: Survey,
    /// 100 writes a second over one connection.
    pub load: Writer,
    /// Past the proxy.
    pub witness: Witness,
}

/// What clients may see of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Nothing at all: no error, and the open session of the load stays.
    Nothing,
    /// No error, but a statement or a new connection may have to wait longer than a client does that gives up by itself.
    Waiting,
    /// The open session ends; a new connection waits for the next primary, and no client gets an error.
    NewSession,
    /// The same, but the change may take longer than the survey's client waits: it gives up by itself, and nothing
    /// else may go wrong for it.
    GivingUp,
}

/// A moment when no client of a watch has a statement on its way. It ends when this is dropped.
#[derive(Debug)]
pub struct Quiet {
    began: Stamp,
    _hushed: [OwnedMutexGuard<()>; 2],
}

impl Quiet {
    /// Lets the clients go on; returns when the moment began.
    #[must_use]
    pub fn over(self) -> Stamp {
        self.began
    }
}

impl Watch {
    /// Starts all of them and waits for their first writes.
    ///
    /// # Errors
    /// When they are not acknowledged.
    pub async fn start(lab: &Lab) -> Result<Watch> {
        Watch::start_by(lab, Way::Socket).await
    }

    /// The same, and says how the witness reaches the servers.
    ///
    /// # Errors
    /// When the first writes are not acknowledged.
    pub async fn start_by(lab: &Lab, way: Way) -> Result<Watch> {
        let witness = Witness::start(lab, way).await?;
        let (survey, patient) = (lab.survey()?, lab.patient()?);
        let load = lab.writer().await?;
        survey.success().await?;
        patient.success().await?;
        Ok(Watch { survey, patient, load, witness })
    }

    /// Waits for a moment when neither of the clients has a statement on its way, and makes it last. Of a statement that
    /// is on its way to a server that dies nobody could say whether it was done: an error is then the only true answer,
    /// and this is not what the tests ask for.
    ///
    /// # Errors
    /// When the clients hang.
    pub async fn quiet_moment(&self) -> Result<Quiet> {
        let hushed = [self.survey.hush().await?, self.patient.hush().await?];
        Ok(Quiet { began: Stamp::now(), _hushed: hushed })
    }

    /// Everybody writes again.
    ///
    /// # Errors
    /// When one of them does not.
    pub async fn all_write(&self) -> Result<()> {
        self.survey.success().await?;
        self.patient.success().await?;
        self.load.wait_for(50, SHORT_LIMIT).await
    }

    /// Checks and prints what the clients saw since `moment`.
    ///
    /// # Errors
    /// With every line of ERROR that is not allowed.
    pub fn seen(&self, what: &str, since: Stamp, allowed: Allowed) -> Result<()> {
        let (survey, patient) = (self.survey.so_far().since(since), self.patient.so_far().since(since));
        let load = self.load.so_far();
        println!(
            "{what}: {}; {}; load: longest gap {:.2} s",
            survey.summary(),
            patient.summary(),
            load.longest_gap_after(since).as_secs_f64()
        );
        let may_give_up = matches!(allowed, Allowed::GivingUp | Allowed::Waiting);
        let mut wrong = complaints(&patient, None);
        wrong.extend(complaints(&survey, may_give_up.then_some(NOT_CONNECTED)));
        if matches!(allowed, Allowed::Nothing | Allowed::Waiting) {
            let gave_up = |message: &str| allowed == Allowed::Waiting && message.contains("no answer within");
            let after = load.failures.iter().filter(|failure| failure.at.instant >= since.instant);
            let after = after.filter(|failure| !gave_up(&failure.message));
            wrong.extend(after.map(|failure| format!("load: {}", failure.message)));
        }
        ensure!(wrong.is_empty(), "{what}: {}", wrong.join("; "));
        Ok(())
    }

    /// Stops all of them and checks that no two servers ever acknowledged commits at once; and by the mode either that
    /// every acknowledged row is in the tables of the primary of this moment, or that `pgkeel lost` tells of those that
    /// are not.
    ///
    /// # Errors
    /// With what was lost, or with the two servers.
    pub async fn judge(self, lab: &Lab, kept: Kept) -> Result<()> {
        let witnessed = self.witness.judge(kept)?;
        let alone = if kept == Kept::OrToldLate { "" } else { ", never by two at once" };
        println!("{witnessed} rows acknowledged by the servers themselves{alone}");
        let table = lab.load()?.table;
        let mut all = vec![self.witness.claims()];
        for client in [self.survey.so_far(), self.patient.so_far()] {
            all.push(Claims {
                name: client.name,
                table: table.clone(),
                acknowledged: client.acknowledged().collect(),
                unknown: client.unknown().collect(),
            });
        }
        let record = self.load.stop();
        all.push(Claims {
            name: "load",
            table,
            acknowledged: record.acks.iter().map(|ack| ack.id).collect(),
            unknown: record.unknown.iter().copied().collect(),
        });
        loss::judge(lab, &all, kept).await
    }

    /// So long nothing happens but the clients' writes.
    ///
    /// # Errors
    /// When a client hangs.
    pub async fn go_on(&self, time: Duration) -> Result<()> {
        let lines = usize::try_from(time.as_secs())?;
        self.survey.lines(lines).await
    }
}

fn complaints(lines: &Lines, allowed: Option<&str>) -> Vec<String> {
    let expected = |message: &&str| allowed.is_some_and(|allowed| message.starts_with(allowed));
    let wrong = lines.messages().into_iter().filter(|message| !expected(message));
    wrong.map(|message| format!("{}: {message}", lines.name)).collect()
}
