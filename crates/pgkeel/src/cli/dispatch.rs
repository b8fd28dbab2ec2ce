//! From the command line to the command.

use super::agents::Agents;
use super::args::{
    AgentArgs, AgentCommand, Arguments, AsideCommand, AskArgs, Command, ConfigCommand, DemoArgs,
    FailoverArgs, MaintenanceCommand, PauseArgs, RestartArgs, SwitchoverArgs, WhyArgs, WhyCommand,
};
use super::membership_args::{InviteArgs, InviteCommand, RemoveArgs};
use super::run::{self, End, Source, What};
use super::status::{Format, StatusOptions};
use super::store_args::StoreCommand;
use super::succeed::Myself;
use super::user::UserCommand;
use super::why::WhyOptions;
use super::{
    add_proxy, adopt, agents, api_token, aside, audit, cert, clone, config, configure, create, explain,
    failover, generate, guard, invite, join, leave, lost, order, restart, status, store, succeed, switchover,
    upgrade, user, why,
};
use crate::demo::{self, Afterwards, Colour, DemoOptions};
use crate::log::LogFormat;
use crate::signals;
use cluster::decide::switchover::Order;
use cluster::membership::TokenRole;
use cluster::state::Fencing;
use std::future::Future;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long work that cannot be interrupted may hold up the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// Does what was asked.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Create(args) => in_runtime(create::run(args)),
        Command::Adopt(args) => in_runtime(adopt::run(args)),
        Command::Invite(args) => invited(args),
        Command::Join(args) => in_runtime(join::run(args)),
        Command::AddProxy(args) => in_runtime(add_proxy::run(args)),
        Command::Remove(args) => removed(args),
        Command::Leave(args) => in_runtime(leave::leave(&args)),
        Command::Guard(args) => guard::run(args),
        Command::GuardExec(args) => guard::exec(&args),
        Command::Config(command) => configured(command),
        Command::Restart(args) => restarted(args),
        Command::Reload(args) => {
            with_agents(&args.ask, |agents, format| in_runtime(restart::reload(&agents, format, args.node)))
        }
        Command::SucceedCheck { words } => in_runtime(succeed::answer(words)),
        Command::Store(command) => stored(command),
        Command::Cert(command) => cert::run(&command),
        Command::Run(args) => stay_up(Source::File(args.config), args.log_format, What::All),
        Command::Agent(args) => agent(args),
        Command::Proxy(args) => {
            let format = args.log_format;
            stay_up(Source::of_proxy(args), format, What::Proxy)
        }
        Command::Status(args) => with_agents(&args.ask, |agents, format| {
            let repeat = if args.watch { status::Repeat::EverySecond } else { status::Repeat::Once };
            in_runtime(status::run(&StatusOptions { agents, format, repeat }))
        }),
        Command::Why(WhyArgs { not: Some(WhyCommand::Not { node, ask }), .. }) => {
            with_agents(&ask, |agents, format| in_runtime(explain::why_not(&agents, format, &node)))
        }
        Command::Why(args) => with_agents(&args.ask, |agents, format| {
            in_runtime(why::run(&WhyOptions { agents, format, epochs: args.epochs }))
        }),
        Command::Whatif(args) => with_agents(&args.ask, |agents, format| {
            in_runtime(explain::what_if(&agents, format, &args.event))
        }),
        Command::Switchover(args) => switched_over(args),
        Command::Failover(args) => failed_over(args),
        Command::Pause(args) => pause(&args),
        Command::Maintenance(command) => maintain(command),
        Command::Resume(args) => with_agents(&args.ask, |agents, format| {
            in_runtime(order::run(&agents, format, Order::Resume, "resumed"))
        }),
        Command::Clone(args) => with_agents(&args.ask, |agents, format| {
            in_runtime(clone::run(&clone::CloneOptions {
                agents,
                format,
                node: args.node,
                from: args.from,
                sure: args.yes,
                afterwards: if args.no_wait { clone::Afterwards::Leave } else { clone::Afterwards::Watch },
            }))
        }),
        Command::Lost(args) => with_agents(&args.ask, |agents, format| {
            in_runtime(lost::run(&lost::LostOptions { agents, format, node: args.node }))
        }),
        Command::Audit(args) => audited(args),
        Command::Aside(command) => set_aside(command),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(dir.as_deref()),
        Command::User(command) => users(command),
        Command::Demo(args) => in_runtime(demo::run(&demo_options(args))),
    }
}

fn users(command: UserCommand) -> ExitCode {
    match command {
        UserCommand::Add(user::AddArgs { name, role, ask }) => {
            with_agents(&ask, |agents, format| in_runtime(user::add(&agents, format, name, role.into())))
        }
        UserCommand::List { ask } => {
            with_agents(&ask, |agents, format| in_runtime(user::list(&agents, format)))
        }
        UserCommand::Remove { name, ask } => {
            with_agents(&ask, |agents, format| in_runtime(user::remove(&agents, format, name)))
        }
    }
}

fn audited(args: audit::AuditArgs) -> ExitCode {
    with_agents(&args.ask, |agents, format| in_runtime(audit::run(&agents, format, args.node, args.last)))
}

fn switched_over(args: SwitchoverArgs) -> ExitCode {
    let wish = match (args.list, args.cancel) {
        (true, _) => switchover::Wish::List,
        (false, Some(id)) => switchover::Wish::Cancel(id),
        (false, None) => switchover::Wish::Change { to: args.to, at: args.at, sure: args.yes },
    };
    with_agents(&args.ask, |agents, format| in_runtime(switchover::run(&agents, format, wish)))
}

fn failed_over(args: FailoverArgs) -> ExitCode {
    with_agents(&args.ask, |agents, format| {
        let wish = failover::Wish {
            to: args.to,
            accept: args.accept_loss,
            stopped: args.stopped,
            confirm: if args.yes { aside::Confirm::Given } else { aside::Confirm::Ask },
        };
        in_runtime(failover::run(&agents, format, &wish))
    })
}

fn invited(args: InviteArgs) -> ExitCode {
    if let Some(InviteCommand::Revoke { id, ask }) = args.command {
        return with_agents(&ask, |agents, format| in_runtime(invite::revoke(&agents, format, id)));
    }
    let role = match (args.witness, args.proxy) {
        (true, _) => TokenRole::Witness,
        (false, true) => TokenRole::Proxy,
        (false, false) => TokenRole::Data,
    };
    if let Err(said) = invite::check_founded(args.ask.config.as_deref()) {
        eprintln!("pgkeel invite: {said}");
        return ExitCode::FAILURE;
    }
    let wish = invite::Wish { role, good_for: args.good_for, uses: args.uses };
    with_agents(&args.ask, |agents, format| in_runtime(invite::run(&agents, format, wish)))
}

fn removed(args: RemoveArgs) -> ExitCode {
    let manner = leave::Manner { insist: args.insist, sure: args.yes };
    with_agents(&args.ask, |agents, format| match args.cancel {
        true => in_runtime(leave::keep(&agents, format, args.node)),
        false => in_runtime(leave::remove(&agents, format, &args.node, manner)),
    })
}

fn configured(command: ConfigCommand) -> ExitCode {
    let (wish, ask) = match command {
        ConfigCommand::Check { file } => return config::check(&file),
        ConfigCommand::Show { ask } => (configure::Wish::Show, ask),
        ConfigCommand::Set { pairs, from, ask } => (configure::Wish::Set { pairs, from }, ask),
        ConfigCommand::Unset { names, from, ask } => (configure::Wish::Unset { names, from }, ask),
        ConfigCommand::Edit { file, ask } => (configure::Wish::Edit { file }, ask),
        ConfigCommand::Diff { from, to, ask } => (configure::Wish::Diff { from, to }, ask),
        ConfigCommand::History { ask } => (configure::Wish::History, ask),
        ConfigCommand::Rollback { version, ask } => (configure::Wish::Rollback { to: version }, ask),
    };
    with_agents(&ask, |agents, format| in_runtime(configure::run(&agents, format, wish)))
}

fn stored(command: StoreCommand) -> ExitCode {
    match command {
        StoreCommand::Show { ask } => {
            with_agents(&ask, |agents, format| in_runtime(store::show(&agents, format)))
        }
        StoreCommand::Migrate(args) => {
            with_agents(&args.ask, |agents, format| in_runtime(store::migrate(&agents, format, &args)))
        }
    }
}

fn restarted(args: RestartArgs) -> ExitCode {
    let wish = match args.cancel {
        Some(id) => restart::Wish::Cancel(id),
        None => restart::Wish::Restart {
            node: args.node,
            pending: args.pending,
            rolling: args.rolling,
            sure: args.yes,
            leave: args.no_wait,
        },
    };
    with_agents(&args.ask, |agents, format| in_runtime(restart::run(&agents, format, wish)))
}

fn pause(args: &PauseArgs) -> ExitCode {
    with_agents(&args.ask, |agents, format| {
        let (fencing, done) = pause_words(args.fence);
        in_runtime(order::run(&agents, format, Order::Pause { fencing }, done))
    })
}

fn agent(args: AgentArgs) -> ExitCode {
    match (args.command, args.run) {
        (Some(AgentCommand::Upgrade { node, ask }), _) => {
            with_agents(&ask, |agents, format| in_runtime(upgrade::run(&agents, format, node.as_ref())))
        }
        (None, Some(args)) => stay_up(Source::File(args.config), args.log_format, What::Agent),
        // The parser asks for one of them.
        (None, None) => ExitCode::from(2),
    }
}

fn pause_words(fence: bool) -> (Fencing, &'static str) {
    match fence {
        true => (
            Fencing::Kept,
            "paused: nothing is decided until pgkeel resume, and a primary that cannot renew its lease ends",
        ),
        false => (
            Fencing::Suspended,
            "paused: nothing is decided until pgkeel resume; the primary serves on, also while nobody can renew its lease",
        ),
    }
}

fn set_aside(command: AsideCommand) -> ExitCode {
    match command {
        AsideCommand::List { ask } => {
            with_agents(&ask, |agents, format| in_runtime(aside::list(&agents, format)))
        }
        AsideCommand::Prune(args) => with_agents(&args.ask, |agents, format| {
            in_runtime(aside::prune(&aside::PruneOptions {
                agents,
                format,
                node: args.node,
                older_than: args.older_than,
                wal: args.lost,
                confirm: if args.yes { aside::Confirm::Given } else { aside::Confirm::Ask },
            }))
        }),
    }
}

fn maintain(command: MaintenanceCommand) -> ExitCode {
    let (order, ask, done) = match command {
        MaintenanceCommand::On { node, reason, yes, ask } => {
            let done = format!("{node} is under maintenance until pgkeel maintenance off {node}");
            (Order::Maintain { node, text: reason, insist: yes }, ask, done)
        }
        MaintenanceCommand::Off { node, ask } => {
            let done = format!("{node} is looked after again");
            (Order::Unmaintain { node }, ask, done)
        }
    };
    with_agents(&ask, |agents, format| in_runtime(order::run(&agents, format, order, &done)))
}

fn demo_options(args: DemoArgs) -> DemoOptions {
    DemoOptions {
        nodes: args.nodes,
        dir: args.dir,
        afterwards: if args.keep { Afterwards::Keep } else { Afterwards::Remove },
        colour: if args.no_color { Colour::Never } else { Colour::Auto },
    }
}

fn with_agents(ask: &AskArgs, then: impl FnOnce(Agents, Format) -> ExitCode) -> ExitCode {
    let format = if ask.json { Format::Json } else { Format::Table };
    let token = api_token::file_of(ask.api_token_file.as_deref());
    let (config, tls) = (ask.config.as_deref(), ask.tls.as_deref());
    match agents::choose(&ask.agents, config, tls, token.as_deref()) {
        Ok(agents) => then(agents, format),
        Err(said) => {
            eprintln!("pgkeel: {said}");
            ExitCode::from(2)
        }
    }
}

/// Runs what stays until it is told to end, and perhaps as another program after that.
fn stay_up(source: Source, format: Option<LogFormat>, what: What) -> ExitCode {
    // Before all else: this may be a process that was another program until now, and signals wait for it.
    if let Err(e) = signals::catch() {
        eprintln!("pgkeel: it cannot be told to end: {e}");
        return ExitCode::FAILURE;
    }
    let myself = Myself::now();
    let Some(runtime) = two_threads() else { return ExitCode::FAILURE };
    match runtime.block_on(run::run(source, format, (what, &myself))) {
        End::With(code) => {
            runtime.shutdown_timeout(SHUTDOWN_LIMIT);
            ExitCode::from(code)
        }
        End::ForSuccessor { by } => {
            if let Err(e) = signals::hold() {
                eprintln!("pgkeel: a signal may be lost while this becomes another program: {e}");
            }
            runtime.shutdown_timeout(by.saturating_duration_since(Instant::now()));
            eprintln!("pgkeel: {}", myself.become_anew());
            ExitCode::FAILURE
        }
    }
}

/// Two threads: the agent's work is waiting, and the proxy has threads of its own.
fn two_threads() -> Option<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.inspect_err(|e| eprintln!("pgkeel: no threads can be started: {e}")).ok()
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let Some(runtime) = two_threads() else { return ExitCode::FAILURE };
    let code = runtime.block_on(work);
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    code
}
