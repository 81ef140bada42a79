//! Starts the node or asks the running one, and turns the end into an exit
//! code.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use messagehub::{
    actors::{
        clock::now_ms,
        element::{self, Loaded, Work},
        identity,
        store::{self, Rebuilt},
    },
    arguments::{Arguments, Ask, ElementCommand, IdentityCommand},
    config::{self, Config},
    control::{self, Command},
    data_folder,
    doctor::{self, Step},
    log_lines, network_secret, new_password, node,
    platform::{desktop, folders},
    safekeeping::terminal,
    status::{self, OutboxStatus, Status},
};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    log_lines::start();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(why) => {
            let _ = writeln!(io::stderr(), "messagehub: {why}");
            if desktop::has_own_console() {
                // Else the window would be gone with what it says.
                let _ = writeln!(io::stderr(), "Press Enter to close this window.");
                let _ = io::stdin().read_line(&mut String::new());
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let data = arguments
        .data
        .or_else(folders::data)
        .ok_or("this account has no home: name a folder with --data")?;
    let config = arguments.config.as_deref();
    match arguments.ask {
        None => {
            let browse = !arguments.no_browser && desktop::Surroundings::look().is_desktop();
            if let Some(running) = running(&data) {
                return show_running(&data, &running, browse);
            }
            let config = Config::load(config).map_err(|error| error.to_string())?;
            let code = node::run(&config, &data, browse).map_err(|error| error.to_string())?;
            Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        Some(Ask::Doctor { json }) => examine(config, &data, json),
        Some(Ask::NetworkSecret) => new_secret(),
        Some(Ask::Element { what: ElementCommand::Install { file } }) => {
            install_element(config, &data, file.as_deref())
        }
        Some(Ask::Fsck) => check(&data),
        Some(Ask::Rebuild) => rebuild(&data),
        Some(Ask::Backup { file, force }) => print(&terminal::back_up(&data, &file, force)?),
        Some(Ask::Restore { file, yes }) => print(&terminal::bring_back(&data, &file, yes)?),
        Some(Ask::Identity { what }) => match what {
            IdentityCommand::Export { yes } => print(&terminal::export(&data, yes)?),
            IdentityCommand::Import { yes } => print(&terminal::import(&data, yes)?),
        },
        Some(Ask::LoginToken) => print(&ask::<String>(&data, Command::LoginToken)?),
        Some(Ask::Password { user, log_out }) => {
            // Before anybody types for nothing.
            let _: Status = ask(&data, Command::Status)?;
            let password = new_password::read()?;
            let whose: String = ask(&data, Command::Password { user, password, log_out })?;
            print(&format!("the password of {whose} is set"))
        }
        Some(Ask::Outbox { json }) => {
            let reply: OutboxStatus = ask(&data, Command::Outbox)?;
            match json {
                true => print(&as_json(&reply)?),
                false => print(&status::outbox_in_words(&reply, now_ms())),
            }
        }
        Some(Ask::Status { json }) => {
            let reply: Status = ask(&data, Command::Status)?;
            match json {
                true => print(&as_json(&reply)?),
                false => print(&status::status_in_words(&reply)),
            }
        }
    }
}

/// Asks for the node that has this data folder already.
fn running(data: &Path) -> Option<Status> {
    actix::System::new().block_on(control::ask(data, Command::Status)).ok()
}

/// One folder is one node: whoever starts a second one wants to see the first.
fn show_running(data: &Path, running: &Status, browse: bool) -> Result<ExitCode, String> {
    let shown = data.display();
    let web = running.web.as_ref();
    let page = web.map(|web| web.element_url.as_ref().unwrap_or(&web.homeserver_url));
    let page = page.map_or("an unknown address", String::as_str);
    if !browse {
        return Err(format!(
            "the data folder {shown} is in use by another messagehub, which is at {page}; stop it or \
             choose another with --data"
        ));
    }
    desktop::open(page).map_err(|error| format!("{page} cannot be opened: {error}"))?;
    print(&format!("messagehub runs already with the data folder {shown}: opened {page}"))
}

fn ask<T: serde::de::DeserializeOwned>(data: &Path, command: Command) -> Result<T, String> {
    let asked = control::ask(data, command);
    actix::System::new().block_on(asked).map_err(|error| error.to_string())
}

fn as_json(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map_err(|error| error.to_string())
}

fn print(text: &str) -> Result<ExitCode, String> {
    writeln!(io::stdout(), "{text}").map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn check(data: &Path) -> Result<ExitCode, String> {
    let keys = identity::read_server_name(data).map_err(|error| error.to_string())?;
    let checked = store::check(data, keys.as_deref()).map_err(|error| error.to_string())?;
    let mut code = ExitCode::SUCCESS;
    for (what, found) in [("journal", checked.journal), ("database", checked.database)] {
        match found {
            Ok(found) => drop(print(&format!("{what}: {found}"))?),
            Err(error) => {
                print(&format!("{what}: {error}"))?;
                code = ExitCode::from(2);
            }
        }
    }
    Ok(code)
}

fn rebuild(data: &Path) -> Result<ExitCode, String> {
    let keys = identity::read_server_name(data).map_err(|error| error.to_string())?;
    let rebuilt = store::rebuild(data, keys.as_deref()).map_err(|error| error.to_string())?;
    print(match rebuilt {
        Rebuilt::Nothing => "database and journal are whole; nothing was changed",
        Rebuilt::Database => "the database was made anew from the journal",
        Rebuilt::Journal => "the journal was made anew from the database",
    })
}

/// The secret alone on standard output, so that a script can take it; what to do with it beside.
fn new_secret() -> Result<ExitCode, String> {
    let secret = network_secret::generate()?;
    let _ = writeln!(
        io::stderr(),
        "Set it as {} on every node of the network, or as \
         MESSAGEHUB__LIBP2P__PRIVATE_NETWORK_SECRET in its environment, and start them anew. \
         Whoever has it can join.",
        config::PRIVATE_NETWORK_SECRET
    );
    print(&secret)
}

/// Shows on a terminal how far it is.
fn install_element(
    config: Option<&Path>,
    data: &Path,
    archive: Option<&Path>,
) -> Result<ExitCode, String> {
    let config = Config::load(config).map_err(|error| error.to_string())?;
    if let Some(path) = &config.element.path {
        return Err(format!(
            "element.path is set, so Element's files in {} are yours to keep: unpack a release \
             there, or leave the key out",
            path.display()
        ));
    }
    let release = config.element.release()?;
    data_folder::prepare(data).map_err(|error| error.to_string())?;
    let folder = element::folder_in(data);
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(format!("Element {}", release.version));
    let working = |work: Work| match work {
        Work::Loading(Loaded { bytes, total }) => {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(bytes);
        }
        Work::Unpacking => bar.set_message("unpacking"),
        Work::None | Work::Failed(..) => {}
    };
    let brought = element::bring(&release, archive, &folder, working);
    let brought = actix::System::new().block_on(brought);
    bar.finish_and_clear();
    brought.map_err(|error| error.to_string())?;
    print(&format!("Element {} is in {}", release.version, folder.display()))
}

/// Findings go to standard output as they come, and what takes a while to standard error.
fn examine(config: Option<&Path>, data: &Path, json: bool) -> Result<ExitCode, String> {
    let mut failure = None;
    let mut tell = |step: Step<'_>| {
        let written = match step {
            Step::Working(what) => writeln!(io::stderr(), "... {what}"),
            Step::Found(_) if json => Ok(()),
            Step::Found(finding) => writeln!(io::stdout(), "{}", finding.in_words()),
        };
        if let Err(error) = written {
            failure.get_or_insert(error.to_string());
        }
    };
    let report = actix::System::new().block_on(doctor::examine(config, data, &mut tell));
    if let Some(failure) = failure {
        return Err(failure);
    }
    if json {
        print(&as_json(&report)?)?;
    }
    Ok(ExitCode::from(report.exit_code))
}
