//! `messagehub doctor`: what is wrong here, and what to change.
//!
//! Each check ends in one [`Finding`], or a few: a line in words, and advice where something is to
//! be done. What only the running node can know is asked of it over the control socket; without
//! one it is said that it was not tested, never guessed. Invariants: nothing of the node is
//! changed, no check waits longer than its named limit, and no key or secret is shown.

use std::path::Path;

use serde::Serialize;

use crate::{
    control::{self, Command, ControlError},
    status::Status,
};

mod files;
mod internet;
mod lan;
mod ports;
mod router;
mod routes;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be tested; the text says why.
    NotTested,
    /// It works, and not as well as it could.
    Warning,
    /// It does not work.
    Problem,
}

impl Level {
    /// Returns the word at the beginning of a line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotTested => "not tested",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is the case.
    pub text: String,
    /// What to do; none where there is nothing to be done.
    pub advice: Option<String>,
}

impl Finding {
    fn new(
        check: &'static str,
        level: Level,
        text: impl Into<String>,
        advice: impl Into<Option<String>>,
    ) -> Self {
        Self { check, level, text: text.into(), advice: advice.into() }
    }

    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, text, None)
    }

    fn warning(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, text, advice.into())
    }

    fn problem(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Level::Problem, text, advice.into())
    }

    fn not_tested(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Level::NotTested, text, advice.into())
    }

    /// Returns the finding as lines for people.
    pub fn in_words(&self) -> String {
        let mut lines = format!("{:<11} {:<14} {}", self.level.word(), self.check, self.text);
        if let Some(advice) = &self.advice {
            lines.push_str(&format!("\n{:27}-> {advice}", ""));
        }
        lines
    }
}

/// What is told while the checks run.
#[derive(Debug)]
pub enum Step<'a> {
    /// A check begins that takes a while.
    Working(&'a str),
    /// A check ended.
    Found(&'a Finding),
}

/// Everything that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// See [`Report::exit_code`].
    pub exit_code: u8,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Returns 0 where all is well (or could not be tested), 1 where there are warnings, and 2
    /// where there are problems.
    pub fn exit_code(findings: &[Finding]) -> u8 {
        match findings.iter().map(|finding| finding.level).max() {
            None | Some(Level::Ok | Level::NotTested) => 0,
            Some(Level::Warning) => 1,
            Some(Level::Problem) => 2,
        }
    }
}

/// Runs all checks, in an order in which later ones may rely on earlier ones.
pub async fn examine(
    config_file: Option<&Path>,
    data: &Path,
    tell: &mut dyn FnMut(Step<'_>),
) -> Report {
    let mut findings = Vec::new();
    let mut found = |new: Vec<Finding>, tell: &mut dyn FnMut(Step<'_>)| {
        for finding in new {
            tell(Step::Found(&finding));
            findings.push(finding);
        }
    };
    let config = files::configuration(config_file);
    found(vec![config.as_ref().map_or_else(Clone::clone, |(_, good)| good.clone())], tell);
    found(files::data_folder(data), tell);
    found(files::last_word(data).into_iter().collect(), tell);
    let asked = control::ask::<Status>(data, Command::Status).await;
    found(vec![node(data, asked.as_ref())], tell);
    let status = asked.ok();
    if let Ok((config, _)) = &config {
        found(ports::homeserver(config, status.as_ref()).await, tell);
        found(ports::libp2p(config, status.as_ref()), tell);
        found(vec![files::private_network(config)], tell);
        found(routes::look(), tell);
        if config.libp2p.mdns {
            tell(Step::Working("asking the LAN for other nodes, 2 s"));
        }
        let own = status.as_ref().map(|status| status.network.peer_id.as_str());
        found(vec![lan::mdns(config, own).await], tell);
        let online = routes::is_online();
        if internet::is_probed(config, online) {
            tell(Step::Working("connecting to the bootstrap nodes, 10 s at most"));
        }
        found(vec![internet::bootstrap(config, online).await], tell);
    }
    let known = config.as_ref().ok().map(|(config, _)| config);
    let status = status.as_ref();
    let mapping = router::port_mapping(known, status);
    found(vec![mapping, internet::reachability(known, status)], tell);
    found(vec![internet::peers(status), internet::clock(status)], tell);
    Report { exit_code: Report::exit_code(&findings), findings }
}

/// Whether a node runs, and whether it has an identity.
fn node(data: &Path, asked: Result<&Status, &ControlError>) -> Finding {
    const CHECK: &str = "node";
    match asked {
        Ok(Status { user_id: Some(user_id), .. }) => {
            Finding::ok(CHECK, format!("it runs, and you are {user_id}"))
        }
        Ok(status) => {
            let open = status.web.as_ref().and_then(|web| web.open().into_iter().next());
            Finding::warning(
                CHECK,
                "it runs, but nobody has logged in yet, so it speaks to no other node",
                format!("log in: {}", open.as_deref().unwrap_or("open it with a Matrix client")),
            )
        }
        Err(ControlError::NotRunning(_)) => Finding::not_tested(
            CHECK,
            format!("no node runs with the data folder {}", data.display()),
            "start `messagehub` and run the doctor again: how others reach you is known to the \
             running node alone",
        ),
        Err(error @ ControlError::NotPermitted(_)) => {
            Finding::problem(CHECK, "a node runs, but you may not ask it", error.to_string())
        }
        Err(error @ (ControlError::Failed(_) | ControlError::Refused(_))) => Finding::problem(
            CHECK,
            error.to_string(),
            "look at its log; where it says nothing, start it again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let of = |levels: &[Level]| {
            let findings: Vec<_> =
                levels.iter().map(|level| Finding::new("x", *level, "", None)).collect();
            Report::exit_code(&findings)
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[Level::Ok, Level::NotTested]), 0);
        assert_eq!(of(&[Level::Warning, Level::Ok, Level::NotTested]), 1);
        assert_eq!(of(&[Level::Ok, Level::Problem, Level::Warning]), 2);
    }

    #[test]
    fn a_finding_is_one_line_and_its_advice_another() {
        let finding = Finding::problem("ports", "it is taken", "free it");
        let words = finding.in_words();
        let mut lines = words.lines();
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("PROBLEM") && line.contains("it is taken"))
        );
        assert!(lines.next().is_some_and(|line| line.trim() == "-> free it"));
        assert_eq!(lines.next(), None);
    }
}
